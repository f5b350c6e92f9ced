"""The door: who may come in by which way, before anything is parsed. Wraps the whole application.

Host and Origin are checked on every request, whatever the bind address: that is what stops DNS rebinding and foreign
pages. What a visitor may do is for the gate to say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localai.api.aliases import ALIASES
from localai.api.gate import Gate, from_unix_socket
from localai.api.visitor import attach
from localai.api.wire import error_response
from localai.errors import Forbidden, LocalaiError, TooLarge, TooSlow

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SITES = ("none", "same-origin")
"""Of Sec-Fetch-Site, which browsers send where they leave out Origin: typed by the user, or our own page."""
_METHODS = b"GET, POST, DELETE, PATCH, OPTIONS"
_HEADERS = ("authorization", "content-type", "x-api-key", "user-agent", "x-localai-parent", "x-localai-priority")
_CLIENTS = re.compile(r"(x-stainless|anthropic|openai)-[a-z-]{1,60}")
"""What OpenAI's and Anthropic's clients add to each request. No page may ask for the user's own tools."""


class Door:
    """ASGI middleware. `hosts` and `origins` are accepted beside the loopback ones; `max_body` is bytes.

    A body must be there `body_s` seconds after it was first asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        *,
        hosts: Iterable[str],
        origins: Iterable[str],
        max_body: int,
        body_s: float,
    ) -> None:
        self._app = app
        self._gate = gate
        self._hosts = LOOPBACK_HOSTS | {host.lower() for host in hosts}
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._max_body = max_body
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in ALIASES:
            scope = {**scope, "path": ALIASES[scope["path"]]}
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        try:
            self._check(scope, headers, origin)
        except LocalaiError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        if origin is not None:
            if scope["method"] == "OPTIONS":
                await Response(status_code=204, headers=self._preflight(origin, headers))(scope, receive, send)
                return
            send = _with_origin(send, origin)
        try:
            visitor = await self._gate.admit(scope, headers)
        except LocalaiError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        attach(scope, visitor)
        send = self._gate.noted(visitor, scope, send)
        try:
            # What GET answers, HEAD answers too; the server leaves the body out.
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self._app(asked, self._limited(receive), send)
        except (TooLarge, TooSlow) as error:
            await error_response(error, scope["path"])(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[bytes, str], origin: str | None) -> None:
        if not from_unix_socket(scope):
            self._check_host(headers.get(b"host", ""))
        if origin is None and headers.get(b"sec-fetch-site", "none") not in _OWN_SITES:
            raise Forbidden(
                "web pages of other sites may not use this daemon", "call it from a program, or send Origin"
            )
        if origin is not None and not self._is_ours(origin):
            raise Forbidden(
                f"web pages of {origin!r} may not use this daemon",
                "add it to allowed_origins in config.toml if that page is yours",
            )
        length = headers.get(b"content-length", "0")
        if not length.isdigit() or int(length) > self._max_body:
            raise self._too_large()

    def _check_host(self, host: str) -> None:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name is None or name.lower() not in self._hosts:
            raise Forbidden(
                f"the Host header {host!r} is not one of this machine's own names",
                "connect to localhost, or add the name to allowed_hosts in config.toml",
            )

    def _is_ours(self, origin: str) -> bool:
        if origin.rstrip("/").lower() in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and name in LOOPBACK_HOSTS

    def _preflight(self, origin: str, headers: dict[bytes, str]) -> dict[str, str]:
        asked = headers.get(b"access-control-request-headers", "").lower().split(",")
        named = [name for each in asked if _CLIENTS.fullmatch(name := each.strip())]
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": _METHODS.decode(),
            "Access-Control-Allow-Headers": ", ".join((*_HEADERS, *named)),
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }

    def _limited(self, receive: Receive) -> Receive:
        """Count the body as it arrives, and its time: a chunked body has no length to check beforehand."""
        seen, until, whole = 0, None, False

        async def counted() -> Message:
            nonlocal seen, until, whole
            until = until or asyncio.get_running_loop().time() + self._body_s
            try:
                # After the body, what is waited for is that the client goes.
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError as error:
                raise TooSlow(f"the body took longer than {self._body_s:g} s", "send it without pauses") from error
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._max_body} bytes", "send less, or raise max_body in config.toml"
        )


def _with_origin(send: Send, origin: str) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return named
