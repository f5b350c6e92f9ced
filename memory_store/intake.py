"""Judges one new memory by itself: is the text storable, are its times in order, what is its id.

A NewMemory enters; a prepared row or an InvalidMemory leaves. It knows nothing of other memories.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import get_args

from memory_store.errors import InvalidMemory
from memory_store.records import AuthorKind, Kind, NewMemory, Taint

MOST_TEXT_BYTES = 1 << 20
MOST_NAME_BYTES = 4096
MOST_TAGS = 64
ID_BYTES = 16

TAINT_OF: dict[AuthorKind, Taint] = {"person": "own", "agent": "model", "file": "file", "tool": "tool", "web": "web"}
_json = json.JSONEncoder(ensure_ascii=False).encode
_TAINTS: tuple[Taint, ...] = get_args(Taint)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A memory that may be stored. `fingerprint` is equal where two texts differ only in case or white space."""

    new: NewMemory
    id: str
    taint: Taint
    time: float
    fingerprint: int
    tags: str
    derived_from: str


def prepare(new: NewMemory, *, salt: bytes, now: float) -> Prepared:
    """Raises InvalidMemory. `salt` is the store's own, so that neither id nor fingerprint tells the text elsewhere."""
    check_text(new.text)
    _check_names(new)
    _check_kind(new)
    for label, moment in (("time", new.time), ("valid_from", new.valid_from), ("valid_to", new.valid_to)):
        if moment is not None and not math.isfinite(moment):
            raise InvalidMemory(f"{label} is not a finite number", "give Unix seconds, or leave it out")
    if new.valid_from is not None and new.valid_to is not None and new.valid_to < new.valid_from:
        raise InvalidMemory("valid_to is before valid_from", "swap the two times")
    return Prepared(
        new=new,
        id=new.id if new.id is not None else _id_of(new, salt),
        taint=_taint_of(new),
        time=now if new.time is None else new.time,
        fingerprint=fingerprint(new.text, salt),
        tags=_json(new.tags) if new.tags else "[]",
        derived_from=_json(new.derived_from) if new.derived_from else "[]",
    )


def fingerprint(text: str, salt: bytes) -> int:
    """64 signed bits of the text without case and runs of white space."""
    plain = " ".join(text.casefold().split()).encode()
    return int.from_bytes(blake2b(plain, digest_size=8, key=salt).digest(), "big", signed=True)


def check_text(text: str) -> None:
    """Raises InvalidMemory for a text that no memory can hold."""
    if "\0" in text:
        raise InvalidMemory("the text contains NUL characters", "this looks like a binary file: extract its text first")
    if not text.strip():
        raise InvalidMemory("the text is empty", "give at least one word")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidMemory(
            f"the text is broken Unicode: a lone surrogate at character {error.start}",
            "decode the bytes again with the right encoding",
        ) from error
    if size > MOST_TEXT_BYTES:
        raise InvalidMemory(
            f"the text has {size:,} bytes, one memory holds {MOST_TEXT_BYTES:,}",
            "cut it into parts: `memory add --file` does",
        )


def _check_names(new: NewMemory) -> None:
    if len(new.tags) > MOST_TAGS:
        raise InvalidMemory(f"{len(new.tags)} tags are too many", f"give at most {MOST_TAGS}")
    names = {"namespace": new.namespace, "author": new.author.name, "id": new.id, "digest": new.digest}
    names |= {"place": new.place, "episode": new.episode}
    labelled = [
        *names.items(),
        *(("tag", tag) for tag in new.tags),
        *(("derived_from", ground) for ground in new.derived_from),
    ]
    for label, name in labelled:
        if name is None:
            continue
        if not name.strip() or not name.isprintable():
            raise InvalidMemory(f"{label} is empty or has unprintable characters", "use a name that can be shown")
        if len(name) > MOST_NAME_BYTES:
            raise InvalidMemory(f"{label} has {len(name):,} characters", f"use at most {MOST_NAME_BYTES:,}")


def _check_kind(new: NewMemory) -> None:
    if new.kind not in get_args(Kind):
        raise InvalidMemory(f"no kind {new.kind!r}", "use verbatim or derived")
    if (new.kind == "derived") != bool(new.derived_from):
        raise InvalidMemory(
            "a derived fact names what it is derived from, a verbatim memory does not",
            "set kind and derived_from together",
        )


def _taint_of(new: NewMemory) -> Taint:
    if new.author.kind not in TAINT_OF:
        raise InvalidMemory(f"no author kind {new.author.kind!r}", f"use one of {', '.join(TAINT_OF)}")
    least = TAINT_OF[new.author.kind]
    if new.taint is None:
        return least
    if new.taint not in _TAINTS:
        raise InvalidMemory(f"no taint class {new.taint!r}", f"use one of {', '.join(_TAINTS)}")
    return max(least, new.taint, key=_TAINTS.index)


def _id_of(new: NewMemory, salt: bytes) -> str:
    said = (new.namespace, new.author.kind, new.author.name, new.kind, new.time, new.valid_from, new.valid_to)
    stands = (new.digest, new.place, new.episode, new.position, new.text)
    packed = _json([*said, *stands]).encode()
    return blake2b(packed, digest_size=ID_BYTES, key=salt).hexdigest()
