"""Tokens for programs that come over TCP: who they are, what they may do, and how much. Only digests are kept.

A name with its rights enters, a secret leaves once; later a secret enters and its token leaves.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from localai.errors import BadRequest, Conflict, NotFound
from localai.state_file import StateFile

Scope = Literal["infer", "memory-read", "memory-write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "la-"
"""What a token of ours begins with: such a one is never taken for the placeholder that many clients send."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One program's rights. `admin` includes all others.

    `namespaces` are the parts of the memory it may use, () for all. `requests_per_minute` and `joules_per_day` are its
    limits, 0 for none. `digest` is the SHA-256 of the secret, which has 256 random bits: it needs no salt.
    """

    name: str
    digest: str
    created: float
    scopes: tuple[Scope, ...] = ("infer",)
    namespaces: tuple[str, ...] = ()
    requests_per_minute: int = 0
    joules_per_day: float = 0.0

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class _Kept(msgspec.Struct, frozen=True):
    tokens: tuple[Token, ...] = ()
    format: int = 1


class Tokens:
    """The file `tokens.json` of a home. Nothing of it is believed once it is damaged: then no token is known."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "tokens.json", _Kept, "no token is known any more")

    def all(self) -> tuple[Token, ...]:
        """Oldest first. Raises OutOfResources where the file cannot be read."""
        return self._file.read().tokens

    def of(self, secret: str) -> Token | None:
        """The token with this secret. Looked up by digest, so the time it takes tells nothing of the secret."""
        digest = _digest(secret)
        return next((token for token in self.all() if token.digest == digest), None)

    def add(
        self,
        name: str,
        scopes: Sequence[Scope],
        namespaces: Sequence[str] = (),
        requests_per_minute: int = 0,
        joules_per_day: float = 0.0,
    ) -> tuple[Token, str]:
        """A new token and its secret, which is not kept. Raises BadRequest, or Conflict for a name that is taken."""
        if not _NAME.fullmatch(name):
            hint = "take up to 64 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit"
            raise BadRequest(f"{name!r} is no name for a token", hint, param="name")
        if not scopes:
            raise BadRequest("a token needs a scope", f"choose of: {', '.join(SCOPES)}", param="scopes")
        secret = PREFIX + secrets.token_urlsafe(32)
        made = Token(
            name=name,
            digest=_digest(secret),
            created=time.time(),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            namespaces=tuple(dict.fromkeys(namespaces)),
            requests_per_minute=requests_per_minute,
            joules_per_day=joules_per_day,
        )

        def appended(kept: _Kept) -> _Kept:
            if any(token.name == name for token in kept.tokens):
                raise Conflict(f"there is a token named {name!r}", f"take another name, or `localai token rm {name}`")
            return _Kept((*kept.tokens, made))

        self._file.change(appended)
        return made, secret

    def remove(self, name: str) -> Token:
        """From now on its secret opens nothing. Raises NotFound."""
        gone: list[Token] = []

        def without(kept: _Kept) -> _Kept:
            gone.extend(token for token in kept.tokens if token.name == name)
            return _Kept(tuple(token for token in kept.tokens if token.name != name))

        self._file.change(without)
        if not gone:
            raise NotFound(f"no token named {name!r}", "`localai token list` shows all", param="name")
        return gone[0]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
