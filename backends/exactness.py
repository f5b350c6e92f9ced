"""Whether a step of several tokens gives the bits that steps of one token give, found by comparing the two.

Engines take other kernels for several rows: sums in another order round otherwise, and where activations are held in
8 bits that moves logits by as much as 1. So a guess may change which of two close tokens wins, unless the bits agree.
Knows no engine: counts of tokens and verdicts enter and leave.
"""

from __future__ import annotations

from dataclasses import dataclass

_NEAR = 64
"""Cells between two comparisons where others hold cells too, as the count of all is then only an upper bound."""
_FAR = 256
"""Cells between two comparisons otherwise: attention kernels change at multiples of it."""
_RECALL = 1024
"""Steps after which a difference is looked for again: it may have come from where the cells lay."""
_MOST = 4096
"""Places that are remembered."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a step of `count` tokens more than the one that is due, run by `threads`, rounds as single ones would.

    `used` cells will be taken behind it, `others` of them by other sequences.
    """

    threads: int
    count: int
    used: int
    others: int

    @property
    def place(self) -> tuple[int, int, int, int]:
        """What has the same answer."""
        return self.threads, self.count, self.others, (self.used - 1) // (_NEAR if self.others else _FAR)


class Exactness:
    """For one engine."""

    def __init__(self) -> None:
        self._same: set[tuple[int, int, int, int]] = set()
        self._counts: set[tuple[int, int]] = set()
        self._differs: dict[int, tuple[int, int]] = {}
        self._steps = 0

    def known(self, threads: int, count: int | None = None) -> bool:
        """Whether a comparison with so many threads (of a step of so many tokens) has ever found the same bits."""
        if count is not None:
            return (threads, count) in self._counts
        return any(seen == threads for seen, _ in self._counts)

    def verdict(self, asked: Question) -> bool | None:
        """None where it has to be compared first."""
        self._steps += 1
        cells, until = self._differs.get(asked.threads, (asked.used + 1, 0))
        if asked.used >= cells and self._steps < until:
            return False
        return True if asked.place in self._same else None

    def note(self, asked: Question, *, alike: bool) -> None:
        """What a comparison gave."""
        if alike:
            if len(self._same) >= _MOST:
                self._same.clear()
            self._same.add(asked.place)
            self._counts.add((asked.threads, asked.count))
            return
        cells, until = self._differs.get(asked.threads, (asked.used, 0))
        least = min(asked.used, cells) if self._steps < until else asked.used
        self._differs[asked.threads] = least, self._steps + _RECALL
