"""Who asks, as far as a request tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from localai.api.visitor import Visitor, visitor_of
from localai.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Caller:
    """The program that asks, as it names itself or by its token, and who let it in."""

    app: str
    visitor: Visitor

    @property
    def trusted(self) -> bool:
        return self.visitor.trusted


def caller(request: Request) -> Caller:
    """The program behind `request`."""
    visitor = visitor_of(request.scope)
    named = request.headers.get("user-agent", "")[:80]
    return Caller(visitor.name if visitor.token else named, visitor)


def _visitor(request: Request) -> Visitor:
    return visitor_of(request.scope)


Who = Annotated[Visitor, Depends(_visitor)]
"""A route's parameter: who asks."""


def refuse_strangers(request: Request, what: str) -> None:
    """Raise Forbidden unless `request` comes from this user or somebody with the same rights."""
    if not visitor_of(request.scope).trusted:
        raise Forbidden(
            f"{what} takes the Unix socket or a token of scope admin",
            "use `localai models`, or connect to run/localai.sock",
        )
