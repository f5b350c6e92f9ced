"""One namespace of the vector index as a reader sees it: which pages to look into, and in which order.

A query enters, candidates with approximate scores leave. Frozen: a change makes a new shelf, readers keep the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memory_store.codecs import Codec
from memory_store.embed import Vectors
from memory_store.pages import Maps, Numbers


@dataclass(frozen=True, slots=True)
class Shelf:
    """`pages` are clustered around `centres` (n, width) of `lengths` (n,); `tail` pages are not, and always read.

    `share`: of the clustered rows, how many a search reads; learnt from the rows themselves.
    `trained`: rows when the clusters were made, 0 while all is flat. `arrived`: rows ever added.
    """

    width: int
    pages: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    centres: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    lengths: Vectors = field(default_factory=lambda: np.zeros(0, np.float32))
    tail: tuple[tuple[int, int], ...] = ()
    share: float = 1.0
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


@dataclass(frozen=True, slots=True)
class Seen:
    """The living rows that one search has read: (n,) each. `factors` are those of their codes."""

    nums: Numbers
    scores: Vectors
    factors: Vectors


def probe(shelf: Shelf, maps: Maps, codec: Codec, query: Vectors, *, everything: bool) -> Seen:
    """Compare the tail and the share of pages whose centres point most nearly where the query does, or all pages."""
    base = shelf.centres @ query if len(shelf.pages) else np.zeros(0, np.float32)
    chosen = np.arange(len(base)) if everything else towards(shelf, base)
    places = [*shelf.tail, *zip(shelf.pages[chosen].tolist(), shelf.counts[chosen].tolist(), strict=True)]
    if not places:
        return Seen(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))
    codes, all_factors, all_nums = maps.codes, maps.factors, maps.nums
    factors = np.concatenate([all_factors[page, :count] for page, count in places])
    nums = np.concatenate([all_nums[page, :count] for page, count in places])
    bases = np.concatenate([np.zeros(len(shelf.tail), np.float32), base[chosen]])
    each = np.repeat(bases, [count for _, count in places])
    scores = codec.scorer(query)([codes[page, :count] for page, count in places], factors, each)
    alive = nums >= 0
    return Seen(nums, scores, factors) if alive.all() else Seen(nums[alive], scores[alive], factors[alive])


def towards(shelf: Shelf, base: Vectors) -> npt.NDArray[np.intp]:
    """Pages in the order of the cosine of their centres, until they hold the shelf's share of its rows."""
    order = np.argsort(-base / shelf.lengths, kind="stable")
    held = np.cumsum(shelf.counts[order])
    return order[: int(np.searchsorted(held, shelf.share * held[-1])) + 1] if len(order) else order
