"""Whether a step of several tokens gives the bits that steps of one token give, found by comparing the two.

Engines take other kernels for several rows: sums in another order round otherwise, and where activations are held in
8 bits that moves logits by as much as 1. So a guess may change which of two close tokens wins, unless the bits agree.
Knows no engine: counts of tokens and verdicts enter and leave.
"""

from __future__ import annotations

_NEAR = 64
"""Cells between two comparisons where others hold cells too, as the count of all is then only an upper bound."""
_FAR = 256
"""Cells between two comparisons otherwise: attention kernels change at multiples of it."""
_RECALL = 1024
"""Steps after which a difference is looked for again: it may have come from where the cells lay."""


class Exactness:
    """For one engine. `threads` run a step of `count` tokens; `used` cells will be taken behind it, `others` of them by
    other sequences."""

    def __init__(self) -> None:
        self._counts: set[tuple[int, int]] = set()
        self._place: tuple[int, int, int] | None = None
        self._differs: dict[int, tuple[int, int]] = {}
        self._steps = 0

    def seen(self, threads: int) -> bool:
        """Whether a comparison with so many threads has ever found the same bits."""
        return any(known == threads for known, _ in self._counts)

    def verdict(self, threads: int, count: int, used: int, others: int) -> bool | None:
        """None where it has to be compared first."""
        self._steps += 1
        cells, until = self._differs.get(threads, (used + 1, 0))
        if used >= cells and self._steps < until:
            return False
        known = (threads, count) in self._counts and self._place == _place(threads, used, others)
        return True if known else None

    def note(self, threads: int, count: int, used: int, others: int, *, alike: bool) -> None:
        """What a comparison gave."""
        if alike:
            self._counts.add((threads, count))
            self._place = _place(threads, used, others)
        else:
            cells, until = self._differs.get(threads, (used, 0))
            self._differs[threads] = (min(used, cells) if self._steps < until else used), self._steps + _RECALL


def _place(threads: int, used: int, others: int) -> tuple[int, int, int]:
    return threads, others, used // (_NEAR if others else _FAR)
