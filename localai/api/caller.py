"""Who asks, as far as a request tells."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from localai.api.security import from_unix_socket
from localai.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it says so itself, and whether it came through this user's own socket."""

    app: str
    trusted: bool


def caller(request: Request) -> Caller:
    """The program behind `request`."""
    return Caller(request.headers.get("user-agent", "")[:80], from_unix_socket(request.scope))


def refuse_strangers(request: Request, what: str) -> None:
    """Raise Forbidden unless `request` came through this user's own socket."""
    if not from_unix_socket(request.scope):
        raise Forbidden(f"{what} over TCP is not allowed", "use `localai models`, or connect to run/localai.sock")
