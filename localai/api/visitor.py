"""Who asks, and what they may: the owner on the Unix socket, a program with a token, or anyone else on loopback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope as AsgiScope

from localai.errors import Forbidden, NotFound
from localai.tokens import PREFIX, SCOPES, Scope, Token
from memory_store.records import DEFAULT_NAMESPACE, OWNER, Author

_KEY = "localai.visitor"
_OWNER_ONLY = ("/localai/memory/files", "/localai/memory/watch", "/localai/memory/unwatch", "/localai/memory/doctor")
_TOOLS = b"x-localai-tools"
_READS = ("/localai/memory/search", "/localai/memory/ask")


@dataclass(frozen=True, slots=True)
class Visitor:
    """`owner` came through this user's own socket. Without a token, others may do inference alone."""

    owner: bool = False
    token: Token | None = None

    @property
    def name(self) -> str:
        """For the ledger and the audit log."""
        return "owner" if self.owner else f"token:{self.token.name}" if self.token else "anonymous"

    @property
    def trusted(self) -> bool:
        """May name files, administer, and use what is the owner's."""
        return self.owner or (self.token is not None and self.token.may("admin"))

    def may(self, scope: Scope) -> bool:
        return self.owner or (self.token.may(scope) if self.token else scope == "infer")

    def author(self, given: Author | None) -> Author:
        """Who says what is to be remembered. Raises Forbidden for a program that says it is somebody else.

        It may say that a tool or a web page said it: these are believed less than itself.
        """
        if self.token is None:
            return given or OWNER
        own = Author(kind="agent", name=self.token.name)
        if given is None or given == own:
            return own
        if given.kind in ("tool", "web"):
            return given
        raise Forbidden(
            f"the token {self.token.name!r} may not speak for {given.kind}:{given.name}",
            f"leave the source out: it is agent:{self.token.name}",
        )

    def namespace(self, given: str | None, usual: str | None = DEFAULT_NAMESPACE) -> str | None:
        """The part of the memory to use where `given` was asked for, None for not at all. Raises Forbidden."""
        bound = self.token.namespaces if self.token else ()
        if not bound:
            return usual if given is None else given
        if given is None:
            return bound[0]
        self._check_namespace(given, bound)
        return given

    def check_namespaces(self, found: Sequence[str], what: str) -> None:
        """Raises NotFound where something lies elsewhere: to this visitor it is as if it were not there."""
        bound = self.token.namespaces if self.token else ()
        if bound and not set(found) <= set(bound):
            raise NotFound(f"no {what} like that", "`localai memory search` finds what there is")

    def whole_memory(self) -> None:
        """Raises Forbidden for a token that is bound to parts of it."""
        if self.token is not None and self.token.namespaces:
            hint = "use a token without --namespace, or the Unix socket"
            raise Forbidden("this is about the whole memory, and the token is bound to parts of it", hint)

    def _check_namespace(self, given: str, bound: Sequence[str]) -> None:
        if given not in bound:
            raise Forbidden(f"this token may not use the namespace {given!r}", f"it may use: {', '.join(bound)}")


def needed(scope: AsgiScope) -> tuple[Scope, ...]:
    """The scopes that a request takes: by its path, and more where the user's own tools are asked for."""
    method, path = scope["method"], scope["path"]
    if any(name == _TOOLS for name, _ in scope["headers"]):
        return "infer", "admin"
    if not path.startswith("/localai/"):
        return ("infer",)
    under = path == "/localai/memory" or path.startswith("/localai/memory/")
    if not under or path.startswith(_OWNER_ONLY):
        return ("admin",)
    if path == "/localai/memory/ask":
        return "infer", "memory-read"
    return ("memory-read",) if method in ("GET", "HEAD") or path in _READS else ("memory-write",)


def secret_of(headers: dict[bytes, str]) -> str:
    """The token that a request carries, '' where it has none of ours: clients send placeholders of many kinds."""
    scheme, _, given = headers.get(b"authorization", "").partition(" ")
    found = [given.strip() if scheme.lower() == "bearer" else "", headers.get(b"x-api-key", "").strip()]
    return next((secret for secret in found if secret.startswith(PREFIX)), "")


def refusal(visitor: Visitor, lacking: Sequence[Scope]) -> Forbidden:
    """Why this visitor may not."""
    if visitor.token is None:
        return Forbidden(
            "the user's own tools, conversations, memory and administration need the Unix socket or a token",
            "use the `localai` command, connect to run/localai.sock in the data folder, or `localai token add`",
        )
    granted = ", ".join(scope for scope in SCOPES if visitor.token.may(scope))
    return Forbidden(
        f"the token {visitor.token.name!r} lacks the scope {' and '.join(lacking)}",
        f"it has: {granted}; make another with `localai token add NAME --scope {lacking[0]}`",
    )


def attach(scope: AsgiScope, visitor: Visitor) -> None:
    scope[_KEY] = visitor


def visitor_of(scope: AsgiScope) -> Visitor:
    """Who the door let in."""
    found = scope[_KEY]
    assert isinstance(found, Visitor)
    return found
