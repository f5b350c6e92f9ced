"""Who holds which sequence number and how many KV cells. Finished sequences stay as residents to be found by prefix.

When others run, idle sequences move from the cells to the shelf in RAM. Cells that two sequences share are counted
twice, so the count errs towards full; the engine's own refusal (`CacheFull`) is the last word.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from backends.contract import Tier
from backends.engine import Engine
from backends.prefix import Held
from backends.shelf import Shelf

_WORTH = 8
"""Shortest common prefix worth taking over, in tokens."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence runs: its number, how many of its tokens that holds already, from which tier, and the cost."""

    seq: int
    held: int
    tier: Tier = "live"
    restore_s: float = 0.0


class Cells:
    """Sequence numbers 0..n_seq-1 over `n_cells` KV cells of one engine, and `shelf_bytes` of RAM for idle ones."""

    def __init__(self, engine: Engine, shelf_bytes: int) -> None:
        info = engine.info()
        self._engine = engine
        self.n_cells = info.n_ctx
        self._can_share = {"fork", "trim"} <= info.capabilities
        self._can_shelve = self._can_share and "save" in info.capabilities and shelf_bytes > 0
        self._shelf = Shelf(shelf_bytes)
        self._most_shelved = shelf_bytes * info.n_ctx // max(1, info.kv_bytes)
        self._n_seq = info.n_seq
        self._free = list(range(info.n_seq - 1, -1, -1))
        self._active: dict[int, Held] = {}
        self._lengths: dict[int, int] = {}
        self._residents: OrderedDict[int, Held] = OrderedDict()

    @property
    def used(self) -> int:
        return sum(self._lengths.values()) + sum(len(t) for t in self._residents.values())

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def residents(self) -> int:
        return len(self._residents)

    def acquire(self, wanted: Held, *, cells: int, reuse: bool) -> Place | None:
        """A place for what is `wanted`; None where there is no room.

        `cells` is what must fit beside the active sequences; residents make way for it, oldest first, but not the one
        that is taken over. The last token is never taken from the cache, because its logits are wanted.
        """
        reuse = reuse and self._can_share
        sought = Held(wanted.tokens[:-1], wanted.root)
        source, common = self._best_match(sought) if reuse else (-1, 0)
        key, shelved = self._shelf.best(sought) if reuse else (0, 0)
        if common < max(_WORTH, shelved):
            source, common = -1, 0
        taken = sum(self._lengths.values()) + (common if source in self._residents else 0)
        new = cells - common
        if taken + new > self.n_cells or len(self._active) == self._n_seq:
            return None
        self._shelve(keep=source)
        while self.n_cells - self.used < new and self.evict_one(keep=source):
            pass
        if common:
            place = Place(self._share(source, common, new), common)
        else:
            place = (self._restore(key, shelved) if shelved >= _WORTH else None) or Place(self._take_free(), 0)
        self._active[place.seq] = wanted
        self._lengths[place.seq] = place.held
        return place

    def _shelve(self, keep: int = -1) -> None:
        """Move residents other than number `keep` out of the cells: there they would slow every step down.

        One that is too long for the whole shelf stays: slower steps cost less than computing it again.
        """
        short = [s for s, held in self._residents.items() if s != keep and len(held) <= self._most_shelved]
        for seq in short if self._can_shelve else []:
            self._shelf.put(self._residents.pop(seq), self._engine.save(seq))
            self._engine.drop(seq)
            self._free.append(seq)

    def _restore(self, key: int, common: int) -> Place | None:
        """Bring a shelved state back and cut it to the first `common` tokens; None where it does not fit."""
        begun = time.monotonic()
        item = self._shelf.get(key)
        if self.n_cells - self.used < len(item.held):
            return None
        seq = self._take_free()
        if not self._engine.restore(seq, item.state):
            self._shelf.drop(key)
            self._free.append(seq)
            return None
        self._engine.trim(seq, common)
        if 2 * common >= len(item.held):
            self._shelf.drop(key)
        return Place(seq, common, "ram", time.monotonic() - begun)

    def _best_match(self, sought: Held) -> tuple[int, int]:
        best, length = -1, 0
        for seq, held in self._residents.items():
            common = sought.common(held)
            if common > length:
                best, length = seq, common
        for seq, held in self._active.items():
            common = min(sought.common(held), self._lengths[seq])
            if common > length:
                best, length = seq, common
        return best, length

    def _share(self, source: int, common: int, new: int) -> int:
        held = self._residents.get(source)
        cramped = not self._free or self.n_cells - self.used < common + new
        if held is not None and (2 * common >= len(held) or cramped):
            del self._residents[source]
            seq = source
        else:
            seq = self._take_free()
            self._engine.fork(source, seq)
        self._engine.trim(seq, common)
        return seq

    def _take_free(self) -> int:
        if not self._free:
            self.evict_one()
        return self._free.pop()

    def fork(self, source: int, tokens: list[int]) -> int:
        """A new sequence that shares all of `source`."""
        seq = self._take_free()
        self._engine.fork(source, seq)
        self._active[seq] = Held(tokens, self._active[source].root)
        self._lengths[seq] = self._lengths[source]
        return seq

    def grow(self, seq: int, length: int) -> None:
        """Note that `seq` holds `length` tokens now."""
        self._lengths[seq] = length

    def release(self, seq: int, *, keep: bool) -> None:
        """Give the number back; with `keep`, what it holds stays to be found."""
        held, length = self._active.pop(seq), self._lengths.pop(seq)
        if keep and self._can_share and length >= _WORTH:
            self._residents[seq] = Held(held.tokens[:length], held.root)
            if self._active:
                self._shelve()
        else:
            self._engine.drop(seq)
            self._free.append(seq)

    def evict_one(self, keep: int = -1) -> bool:
        """Drop the oldest resident other than number `keep`; False where there is none."""
        seq = next((s for s in self._residents if s != keep), None)
        if seq is None:
            return False
        del self._residents[seq]
        self._engine.drop(seq)
        self._free.append(seq)
        return True
