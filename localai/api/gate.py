"""Lets in who may do what a request is about, by the way it came and its token; counts it, and notes what matters."""

from __future__ import annotations

from starlette.types import Message, Scope, Send

from localai.api.visitor import Visitor, needed, refusal, secret_of
from localai.audit import Audit
from localai.errors import LocalaiError, Unauthorized
from localai.quotas import Quotas
from localai.tokens import Tokens

_OPEN = ("/health",)
_READS = ("GET", "HEAD")


class Gate:
    """Of one daemon. `strangers` says whether programs without a token may do inference over TCP."""

    def __init__(self, tokens: Tokens, quotas: Quotas, audit: Audit, *, strangers: bool) -> None:
        self.tokens = tokens
        self._quotas = quotas
        self._audit = audit
        self._strangers = strangers

    def close(self) -> None:
        self._audit.close()

    async def admit(self, scope: Scope, headers: dict[bytes, str]) -> Visitor:
        """Raises Unauthorized, Forbidden, TooBusy or EnergyBudgetSpent, and notes that."""
        visitor = Visitor()
        try:
            visitor = self._known(scope, headers)
            wanted = () if scope["path"] in _OPEN else needed(scope)
            if wanted and not (visitor.owner or visitor.token or self._strangers):
                raise Unauthorized(
                    "this daemon wants a token", "make one with `localai token add`, and send it as Bearer"
                )
            lacking = [one for one in wanted if not visitor.may(one)]
            if lacking:
                raise refusal(visitor, lacking)
            if visitor.token is not None:
                await self._quotas.take(visitor.token, visitor.name)
        except LocalaiError as error:
            self._audit.note(visitor.name, scope["method"], scope["path"], error.status)
            raise
        return visitor

    def noted(self, visitor: Visitor, scope: Scope, send: Send) -> Send:
        """`send`, with a line in the audit log where the request is more than inference, or the owner's looking."""
        if needed(scope) == ("infer",) or (visitor.owner and scope["method"] in _READS):
            return send

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._audit.note(visitor.name, scope["method"], scope["path"], message["status"])
            await send(message)

        return noting

    def _known(self, scope: Scope, headers: dict[bytes, str]) -> Visitor:
        """A token counts on the Unix socket too: whoever shows it wants no more than it gives."""
        secret = secret_of(headers)
        if not secret:
            return Visitor(owner=from_unix_socket(scope))
        token = self.tokens.of(secret)
        if token is None:
            self._quotas.wrong()
        return Visitor(token=token)


def from_unix_socket(scope: Scope) -> bool:
    """True where the request came through the Unix socket, whose address has a path and no port."""
    server = scope.get("server")
    return server is not None and server[1] is None
