"""One namespace of the vector index as a reader sees it: its rows page by page, and the sketches of most of them.

Positions of rows enter, their numbers leave. Frozen: a change makes a new shelf, readers keep the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors
from memory_store.pages import PAGE_ROWS, Maps, Numbers

Positions = npt.NDArray[np.intp]
# (first page, page behind the last one)
Span = tuple[int, int]
# Rows of which the highest is told with the scores; pages are whole numbers of these.
HEAP = 64


class Sketch(Protocol):
    """Few bits of each of many rows, in memory."""

    def compare(self, query: Vectors) -> tuple[Vectors, Vectors]:
        """About the cosine of each row with the unit query (width,), and the highest of each `HEAP` rows."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of the shelf's pages in `span`, sketched. `blank`: rows wiped before that, `gone`: since then."""

    span: Span
    sketch: Sketch
    blank: Positions
    gone: Positions

    def compare(self, query: Vectors) -> tuple[Vectors, Vectors]:
        """As its sketch does, but for the rows that are gone."""
        scores, tops = self.sketch.compare(query)
        if len(self.gone):
            scores[self.gone] = -np.inf
            changed = np.unique(self.gone // HEAP)
            tops[changed] = scores.reshape(-1, HEAP)[changed].max(axis=1)
        return scores, tops


@dataclass(frozen=True, slots=True)
class Shelf:
    """`pages` (n,) in the order in which rows came, all full but the last; `rows`: places in use, wiped ones too."""

    pages: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    rows: int = 0
    segments: tuple[Segment, ...] = ()

    @property
    def full(self) -> int:
        """Pages that nothing will be added to."""
        return self.rows // PAGE_ROWS

    @property
    def sketched(self) -> tuple[Span, ...]:
        """What the segments cover."""
        return tuple(segment.span for segment in self.segments)

    def at(self, places: Sequence[int]) -> list[tuple[int, int]]:
        """(page, rows in use) of these places in `pages`."""
        return [(int(self.pages[at]), min(PAGE_ROWS, self.rows - PAGE_ROWS * at)) for at in places]

    def everything(self) -> list[tuple[int, int]]:
        """(page, rows in use) of all pages."""
        return self.at(range(len(self.pages)))

    def unsketched(self) -> list[int]:
        """The places in `pages` of those that no segment covers."""
        covered = np.zeros(len(self.pages), np.bool_)
        for segment in self.segments:
            covered[slice(*segment.span)] = True
        return np.flatnonzero(~covered).tolist()

    def places(self, positions: Positions) -> tuple[Numbers, Positions]:
        """The page of each row and its place in that."""
        return self.pages[positions // PAGE_ROWS], positions % PAGE_ROWS

    def nums(self, maps: Maps, positions: Positions) -> Numbers:
        """The numbers of these rows; -1 for a wiped one."""
        found: Numbers = maps.nums[self.places(positions)]
        return found


def spans(full: int, unit: int, most: int) -> list[Span]:
    """How full pages are cut into segments: of `most` units as often as it goes, the rest by halves.

    Depends on their count alone, so that a rebuild makes the same ones, and a page is sketched anew seldom.
    """
    found, start, left = [], 0, full // unit
    while left:
        size = min(most, 1 << left.bit_length() - 1)
        found.append((start, start + size * unit))
        start, left = start + size * unit, left - size
    return found


def highest(scores: Vectors, most: int) -> Positions:
    """Where the `most` highest are, all of them and none else."""
    if len(scores) <= most:
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - most)[len(scores) - most :]


def likeliest(shelf: Shelf, query: Vectors, most: int) -> Positions:
    """The `most` rows of all segments that seem nearest to the query."""
    compared = [segment.compare(query) for segment in shelf.segments]
    every = np.concatenate([tops for _, tops in compared])
    # As many heaps have a row at least so high: no other row can be among the best, and none else is looked at.
    least = np.partition(every, len(every) - most)[len(every) - most] if len(every) > most else -np.inf
    found, values = [], []
    for segment, (scores, tops) in zip(shelf.segments, compared, strict=True):
        heaps = np.flatnonzero(tops >= least)
        inside = scores.reshape(-1, HEAP)[heaps].ravel()
        high = np.flatnonzero(inside >= least)
        found.append(heaps[high // HEAP] * HEAP + high % HEAP + segment.span[0] * PAGE_ROWS)
        values.append(inside[high])
    return np.concatenate(found)[highest(np.concatenate(values), most)]
