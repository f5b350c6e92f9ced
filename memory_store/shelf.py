"""One namespace of the vector index as a reader sees it: its rows page by page, and the sketches of most of them.

Positions of rows enter, their numbers leave. Frozen: a change makes a new shelf, readers keep the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors
from memory_store.pages import PAGE_ROWS, Maps, Numbers

Positions = npt.NDArray[np.intp]
# (first page, page behind the last one)
Span = tuple[int, int]


class Sketch(Protocol):
    """Few bits of each of many rows, in memory."""

    def scores(self, query: Vectors) -> Vectors:
        """About the cosine of each row with the unit query (width,), in the order of the rows; a fresh array."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of the shelf's pages in `span`, sketched. `blank`: rows wiped before that, `gone`: since then."""

    span: Span
    sketch: Sketch
    blank: Positions
    gone: Positions

    def scores(self, query: Vectors) -> Vectors:
        found = self.sketch.scores(query)
        found[self.gone] = -np.inf
        return found


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

    def counts(self) -> Numbers:
        """Rows in use of each page."""
        return np.minimum(PAGE_ROWS, self.rows - PAGE_ROWS * np.arange(len(self.pages)))

    def everything(self) -> list[tuple[int, int]]:
        """(page, rows) of all pages."""
        return [*zip(self.pages.tolist(), self.counts().tolist(), strict=True)]

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
