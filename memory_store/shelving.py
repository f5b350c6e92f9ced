"""Changes to one namespace of the vector index: rows appended, rows wiped, full pages sketched.

A shelf enters, the next one leaves. Where a row lies depends on the order of the rows alone, not on how they came in
batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np

from memory_store.codecs import Int8Codec
from memory_store.embed import Vectors
from memory_store.pages import PAGE_ROWS, Numbers, PagePool
from memory_store.shelf import Positions, Segment, Shelf, Sketch, Span


class Make(Protocol):
    """A kind of sketch, made from a sample of about so many rows, all rows piece by piece, and their count."""

    @property
    def sample_rows(self) -> int: ...

    def __call__(self, sample: Vectors, chunks: Iterable[Vectors], count: int) -> Sketch: ...


def append(pool: PagePool, codec: Int8Codec, shelf: Shelf, nums: Numbers, rows: Vectors) -> Shelf:
    """Add rows behind the others."""
    codes, factors = codec.encode(rows)
    pages, done = shelf.pages.tolist(), 0
    while done < len(nums):
        at = (shelf.rows + done) % PAGE_ROWS
        if at == 0:
            pages.append(pool.take())
        some = slice(done, done + PAGE_ROWS - at)
        pool.put(pages[-1], at, codes[some], factors[some], nums[some])
        done += len(nums[some])
    return replace(shelf, pages=np.array(pages, np.int64), rows=shelf.rows + len(nums))


def wipe(pool: PagePool, shelf: Shelf, gone: Numbers) -> Shelf:
    """Zero these rows where they lie."""
    maps, hit = pool.maps, False
    for page, count in shelf.everything():
        for row in np.flatnonzero(np.isin(maps.nums[page, :count], gone)).tolist():
            pool.wipe(page, row)
            hit = True
    return replace(shelf, segments=tuple(_refreshed(pool, shelf, one) for one in shelf.segments)) if hit else shelf


def sketch(pool: PagePool, codec: Int8Codec, shelf: Shelf, span: Span, make: Make) -> Segment:
    """A segment of these full pages, from what lies in them."""
    pages = shelf.pages[slice(*span)]
    count = len(pages) * PAGE_ROWS
    chosen = np.arange(0, count, max(1, count // make.sample_rows))
    sample = codec.decode(*pool.rows(pages[chosen // PAGE_ROWS], chosen % PAGE_ROWS, among=len(pages)))
    blank = _wiped(pool, pages)
    chunks = (codec.decode(*pool.whole(page)) for page in pages.tolist())
    return Segment(span, make(sample, chunks, count), blank, np.zeros(0, np.intp))


def installed(pool: PagePool, shelf: Shelf, made: Segment) -> Shelf:
    """The shelf with a new segment in place of those that it overlaps."""
    start, end = made.span
    others = [one for one in shelf.segments if one.span[1] <= start or one.span[0] >= end]
    every = sorted([*others, _refreshed(pool, shelf, made)], key=lambda one: one.span)
    return replace(shelf, segments=tuple(every))


def _refreshed(pool: PagePool, shelf: Shelf, segment: Segment) -> Segment:
    """The segment with the rows left out that were wiped since it was made."""
    wiped = _wiped(pool, shelf.pages[slice(*segment.span)])
    return replace(segment, gone=np.setdiff1d(wiped, segment.blank))


def _wiped(pool: PagePool, pages: Numbers) -> Positions:
    return np.flatnonzero(pool.maps.nums[pages].ravel() < 0)
