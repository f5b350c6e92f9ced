"""Who holds which sequence number and how many KV cells. Finished sequences stay as residents to be found by prefix.

Cells that two sequences share are counted twice, so the count errs towards full; the engine's own refusal
(`CacheFull`) is the last word.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from backends.contract import Engine

_WORTH = 8
"""Shortest common prefix worth taking over, in tokens."""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix; by bisection over slices, which compare at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Cells:
    """Sequence numbers 0..n_seq-1 over `n_cells` KV cells of one engine."""

    def __init__(self, engine: Engine) -> None:
        info = engine.info()
        self._engine = engine
        self.n_cells = info.n_ctx
        self._can_share = {"fork", "trim"} <= info.capabilities
        self._n_seq = info.n_seq
        self._free = list(range(info.n_seq - 1, -1, -1))
        self._active: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._residents: OrderedDict[int, list[int]] = OrderedDict()

    @property
    def used(self) -> int:
        return sum(self._lengths.values()) + sum(len(t) for t in self._residents.values())

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def residents(self) -> int:
        return len(self._residents)

    def acquire(self, tokens: list[int], *, cells: int, reuse: bool) -> tuple[int, int] | None:
        """A sequence number for `tokens`, and how many of them it already holds; None where there is no room.

        `cells` is what must fit beside the active sequences; residents make way for it, oldest first, but not the one
        that is taken over. The last token is never taken from the cache, because its logits are wanted.
        """
        source, common = self._best_match(tokens[:-1]) if reuse and self._can_share else (-1, 0)
        if common < _WORTH:
            source, common = -1, 0
        taken = sum(self._lengths.values()) + (common if source in self._residents else 0)
        new = cells - common
        if taken + new > self.n_cells or len(self._active) == self._n_seq:
            return None
        while self.n_cells - self.used < new and self.evict_one(keep=source):
            pass
        seq = self._share(source, common, new) if common else self._take_free()
        self._active[seq] = tokens
        self._lengths[seq] = common
        return seq, common

    def _best_match(self, tokens: list[int]) -> tuple[int, int]:
        best, length = -1, 0
        for seq, held in self._residents.items():
            common = common_prefix(tokens, held)
            if common > length:
                best, length = seq, common
        for seq, held in self._active.items():
            common = min(common_prefix(tokens, held), self._lengths[seq])
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
        self._active[seq] = tokens
        self._lengths[seq] = self._lengths[source]
        return seq

    def grow(self, seq: int, length: int) -> None:
        """Note that `seq` holds `length` tokens now."""
        self._lengths[seq] = length

    def release(self, seq: int, *, keep: bool) -> None:
        """Give the number back; with `keep`, what it holds stays to be found."""
        tokens, length = self._active.pop(seq), self._lengths.pop(seq)
        if keep and self._can_share and length >= _WORTH:
            self._residents[seq] = tokens[:length]
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
