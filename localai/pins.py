"""Memories that the person pinned: they go along with every question, whatever it is about. Ids enter and leave."""

from __future__ import annotations

from pathlib import Path

import msgspec

from localai.errors import BadRequest
from localai.state_file import StateFile

MOST_PINS = 32
"""Each takes its place in every prompt."""


class _Pinned(msgspec.Struct, frozen=True):
    format: int = 1
    ids: tuple[str, ...] = ()


class Pins:
    """The ids of one home, the first pinned first. A memory that was forgotten since may still be among them."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path, _Pinned, "nothing is pinned")

    def ids(self) -> tuple[str, ...]:
        return self._file.read().ids

    def mark(self, memory: str, *, pinned: bool) -> None:
        """Pin or unpin one. Raises BadRequest where too many are pinned."""

        def edit(content: _Pinned) -> _Pinned:
            others = tuple(each for each in content.ids if each != memory)
            if pinned and len(others) >= MOST_PINS:
                raise BadRequest(f"{MOST_PINS} memories are pinned already", "unpin one first")
            if pinned and memory in content.ids:
                return content
            return _Pinned(ids=(*others, memory) if pinned else others)

        self._file.change(edit)

    def drop(self, gone: set[str]) -> None:
        """Forget these ids."""
        if gone & set(self.ids()):
            self._file.change(lambda content: _Pinned(ids=tuple(each for each in content.ids if each not in gone)))
