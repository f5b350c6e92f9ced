"""Idle sequences kept in RAM outside the KV cells, because idle cells slow every step that attends over them.

States enter and leave as the engine exports them; a byte budget holds at every moment, the longest unused go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from backends.prefix import Held


@dataclass(frozen=True, slots=True)
class Shelved:
    """The exported state of a sequence and what it held."""

    held: Held
    state: bytearray


class Shelf:
    """At most `budget` bytes of states."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._items: OrderedDict[int, Shelved] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """Bytes of all states."""
        return self._bytes

    def put(self, held: Held, state: bytearray) -> None:
        """Keep a state; what is larger than the whole budget is not kept."""
        if len(state) > self._budget:
            return
        # What the new one continues would never be the better match again.
        for key in [k for k, item in self._items.items() if held.common(item.held) == len(item.held)]:
            self.drop(key)
        self._next += 1
        self._items[self._next] = Shelved(held, state)
        self._bytes += len(state)
        while self._bytes > self._budget:
            self.drop(next(iter(self._items)))

    def best(self, sought: Held) -> tuple[int, int]:
        """The key of the state with the longest prefix in common, and that length; (0, 0) where there is none."""
        found, length = 0, 0
        for key, item in self._items.items():
            common = sought.common(item.held)
            if common > length:
                found, length = key, common
        return found, length

    def get(self, key: int) -> Shelved:
        """A kept state, which counts as used now."""
        self._items.move_to_end(key)
        return self._items[key]

    def drop(self, key: int) -> None:
        self._bytes -= len(self._items.pop(key).state)
