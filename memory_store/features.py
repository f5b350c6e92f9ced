"""What can be said of a hit beside its score, as numbers: how it matches, what kind of text it is, and whose.

Hits of one question enter, one row for each leaves. Nothing of the text can be read from it. Trust is not among it:
what is learned from these numbers must not undo distrust.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory_store.rank import Parts
from memory_store.records import Memory

Floats = npt.NDArray[np.float64]

VERSION = 2
"""Raised with every change of what the numbers mean: events under another one are not learned from."""
AUTHORS = ("person", "agent", "file", "tool", "web")
DENSE = (
    *("words", "vector", "cosine", "turns", "covered"),
    *("newness", "length", "marks", "digits", "lines", "position", "episode", "derived"),
    *AUTHORS,
)
HABITS = ("memory", "source", "heading", "document", "tag")
"""What is kept again and again: each is a feature whose value is learned from earlier events."""
_WORD = re.compile(r"[^\W_]{2,}")
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One hit: `score` is its relevance times its trust, `parts` what the relevance is made of."""

    memory: Memory
    score: float
    parts: Parts


@dataclass(frozen=True, slots=True)
class Row:
    """One hit: its unlearned score, `dense` in the order of DENSE, and (habit, key) for all that it belongs to.

    `bounded` says that it may be demoted and never promoted: web and tool text, and what is contested.
    """

    score: float
    dense: tuple[float, ...]
    keys: tuple[tuple[int, int], ...]
    bounded: bool


def rows(question: str, hits: Sequence[Candidate], salt: bytes) -> list[Row]:
    """In the order of `hits`. `salt` is the store's own: keys tell nothing outside of it."""
    asked = set(_WORD.findall(question.casefold()))
    newest = max((hit.memory.time for hit in hits), default=0.0)
    return [_row(hit, asked, newest, salt) for hit in hits]


def _row(hit: Candidate, asked: set[str], newest: float, salt: bytes) -> Row:
    memory, why = hit.memory, hit.parts
    text = memory.text
    size = max(1, len(text))
    covered = len(asked & set(_WORD.findall(text.casefold()))) / max(1, len(asked))
    dense = (
        *(why.words, why.vector, why.cosine, why.turns, covered),
        # Against the newest of them, not against the clock: the same question must have the same answer tomorrow.
        -math.log1p(min(newest - memory.time, 1e12) / _DAY),
        math.log(size),
        sum(not (char.isalnum() or char.isspace()) for char in text) / size,
        sum(char.isdigit() for char in text) / size,
        text.count("\n") / size,
        math.log1p(memory.position or 0),
        float(memory.episode is not None),
        float(memory.kind == "derived"),
        *(float(memory.author.kind == kind) for kind in AUTHORS),
    )
    bounded = memory.taint in ("tool", "web") or memory.state != "kept"
    return Row(score=hit.score, dense=dense, keys=_keys(hit, salt), bounded=bounded)


def _keys(hit: Candidate, salt: bytes) -> tuple[tuple[int, int], ...]:
    memory = hit.memory
    found = [(0, memory.num), (1, memory.source)]
    if memory.place:
        found.append((2, _hash(memory.place.rpartition(": ")[2], salt)))
    if memory.episode:
        found.append((3, _hash(memory.episode, salt)))
    found += [(4, _hash(tag, salt)) for tag in memory.tags]
    return tuple(found)


def _hash(text: str, salt: bytes) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=salt, digest_size=6).digest()
    return int.from_bytes(digest, "little")
