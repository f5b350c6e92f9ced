"""What goes into the memory and what comes out of it: frozen dataclasses, and the words that they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AuthorKind = Literal["person", "agent", "file", "tool", "web"]
Taint = Literal["own", "model", "file", "tool", "web"]
Kind = Literal["verbatim", "derived"]
State = Literal["kept", "quarantined", "contested", "superseded"]
Op = Literal["add", "state", "validity", "tags", "trust", "embedder", "erase"]

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who said it: a person, an agent (the name of its token), a file (its path), a tool or a web address."""

    kind: AuthorKind
    name: str


OWNER = Author(kind="person", name="owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """One thing to remember; times are Unix seconds.

    `id`: None derives it from everything below that is not None, so that the same memory twice is one memory.
    `taint`: None takes the author's class; a worse class may be given (a person pastes a web page), not a better one.
    `digest`: of the file that the text is from. `place`: where in it, for citations. `episode` and `position` order the
    turns of a conversation or the chunks of a document, so that neighbours can be walked. `derived_from`: ids of the
    verbatim memories that a derived fact rests on. `valid_from`, `valid_to`: when it is true; None is open.
    """

    text: str
    author: Author = OWNER
    namespace: str = DEFAULT_NAMESPACE
    kind: Kind = "verbatim"
    id: str | None = None
    taint: Taint | None = None
    time: float | None = None
    valid_from: float | None = None
    valid_to: float | None = None
    digest: str | None = None
    place: str | None = None
    episode: str | None = None
    position: int | None = None
    tags: tuple[str, ...] = ()
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One memory as stored. `num` never repeats, even after erasure. `recorded`: when written; `time`: when said."""

    num: int
    id: str
    namespace: str
    author: Author
    source: int
    kind: Kind
    taint: Taint
    state: State
    time: float
    recorded: float
    valid_from: float | None
    valid_to: float | None
    digest: str | None
    place: str | None
    episode: str | None
    position: int | None
    tags: tuple[str, ...]
    derived_from: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The outcome of an add. `created` is False where the memory was known, or echoes a derived fact of the store.

    `replaced`: ids of memories that say otherwise, and are recalled no more.
    """

    id: str
    num: int
    created: bool
    state: State = "kept"
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the log. `seq` alone gives the order; `time` is what the clock said.

    `num` is a memory; a source for "trust", an embedder for "embedder".
    """

    seq: int
    op: Op
    num: int
    time: float
    body: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """One author that has written here, with how many memories."""

    id: int
    author: Author
    memories: int
