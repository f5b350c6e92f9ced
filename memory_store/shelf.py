"""One namespace of the vector index as a reader sees it: which pages to look into, and in which order.

A query enters, candidates with approximate scores leave. Frozen: a change makes a new shelf, readers keep the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memory_store.codecs import Codec, Scorer
from memory_store.embed import Vectors
from memory_store.pages import Maps, Numbers

ROUND_PAGES = 8


@dataclass(frozen=True, slots=True)
class Shelf:
    """`pages` are clustered around `centres` (n, width) with `spreads` (n,); `tail` pages are not, and always read.

    `reach`: how many spreads above its centre's score a page is thought to hold a hit, learnt from the rows themselves.
    `trained`: rows when the clusters were made, 0 while all is flat. `arrived`: rows ever added.
    """

    width: int
    pages: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    centres: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    spreads: Vectors = field(default_factory=lambda: np.zeros(0, np.float32))
    tail: tuple[tuple[int, int], ...] = ()
    reach: float = 0.0
    trained: int = 0
    arrived: int = 0

    @property
    def in_tail(self) -> int:
        return sum(count for _, count in self.tail)

    @property
    def rows(self) -> int:
        """Places in use, those of wiped rows among them."""
        return int(self.counts.sum()) + self.in_tail

    def everything(self) -> list[tuple[int, int]]:
        """(page, rows) of all pages."""
        return [*zip(self.pages.tolist(), self.counts.tolist(), strict=True), *self.tail]

    def numbers(self, maps: Maps) -> Numbers:
        """All living numbers."""
        found = [maps.nums[page, :count] for page, count in self.everything()]
        together = np.concatenate(found) if found else np.zeros(0, np.int64)
        return together[together >= 0]


@dataclass(slots=True)
class Probe:
    """What one search has seen so far."""

    maps: Maps
    score: Scorer
    nums: list[Numbers] = field(default_factory=list)
    scores: list[Vectors] = field(default_factory=list)
    factors: list[Vectors] = field(default_factory=list)
    scanned: int = 0

    def read(self, page: int, count: int, base: float) -> None:
        maps = self.maps
        factors = maps.factors[page, :count]
        self.scores.append(self.score(maps.codes[page, :count], factors, base))
        self.nums.append(maps.nums[page, :count])
        self.factors.append(factors)
        self.scanned += count

    def together(self) -> tuple[Numbers, Vectors, Vectors]:
        """(numbers, approximate scores, factors) of the living rows that were read."""
        if not self.nums:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
        nums = np.concatenate(self.nums)
        alive = nums >= 0
        if alive.all():
            return nums, np.concatenate(self.scores), np.concatenate(self.factors)
        return nums[alive], np.concatenate(self.scores)[alive], np.concatenate(self.factors)[alive]


def probe(shelf: Shelf, maps: Maps, codec: Codec, query: Vectors, k: int, *, everything: bool) -> Probe:
    """Read pages in the order of what they promise, until none promises more than the k-th best found."""
    seen = Probe(maps, codec.scorer(query))
    for page, count in shelf.tail:
        seen.read(page, count, 0.0)
    if not len(shelf.pages):
        return seen
    base = shelf.centres @ query
    promise = base + np.float32(np.inf if everything else shelf.reach) * shelf.spreads
    order = np.argsort(-promise, kind="stable")
    best = _best(np.concatenate(seen.scores) if seen.scores else np.zeros(0, np.float32), k)
    pages, counts = shelf.pages, shelf.counts
    for start in range(0, len(order), ROUND_PAGES):
        if len(best) >= k and promise[order[start]] < best.min():
            break
        before = len(seen.scores)
        for at in order[start : start + ROUND_PAGES].tolist():
            seen.read(int(pages[at]), int(counts[at]), float(base[at]))
        if not everything:
            best = _best(np.concatenate([best, *seen.scores[before:]]), k)
    return seen


def _best(scores: Vectors, k: int) -> Vectors:
    return scores if len(scores) <= k else np.partition(scores, len(scores) - k)[-k:]
