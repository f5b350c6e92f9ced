"""Changes to one namespace of the vector index: append, fold the tail into pages, split, merge, wipe, cluster anew.

A shelf enters, the next one leaves; pages of the one before stay readable until they are given back. What
results depends on the rows and their order alone, not on how they came in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memory_store import clusters
from memory_store.codecs import Codec
from memory_store.embed import Vectors
from memory_store.pages import PAGE_ROWS, Numbers, PagePool
from memory_store.shelf import Shelf

FOLD_ROWS = 1024
TARGET_ROWS = 320
LEAST_ROWS = 64

# Numbers in; those that still have a vector, in rising order, and their float32 rows out.
Fetch = Callable[[Sequence[int]], tuple[Numbers, Vectors]]


@dataclass(slots=True)
class Bench:
    """Where one shelf is worked on: the pages that it may take, and those that it no longer needs."""

    pool: PagePool
    codec: Codec
    fetch: Fetch
    retired: list[int] = field(default_factory=list)


def append(bench: Bench, shelf: Shelf, nums: Numbers, rows: Vectors, *, fold: bool = True) -> Shelf:
    """Add rows to the tail; with `fold`, each full measure of the tail goes into the clustered pages."""
    while len(nums):
        room = FOLD_ROWS - shelf.arrived % FOLD_ROWS
        shelf = _to_tail(bench, shelf, nums[:room], rows[:room])
        nums, rows = nums[room:], rows[room:]
        if fold:
            shelf = fold_tail(bench, shelf)
    return shelf


def fold_tail(bench: Bench, shelf: Shelf) -> Shelf:
    """Move whole measures of the tail, oldest first; nothing while all is flat."""
    while shelf.trained and shelf.in_tail >= FOLD_ROWS:
        held = np.concatenate([bench.pool.maps.nums[page, :count] for page, count in shelf.tail])
        moved, left = held[:FOLD_ROWS], held[FOLD_ROWS:]
        bench.retired += [page for page, _ in shelf.tail]
        shelf = _place(bench, replace(shelf, tail=()), *bench.fetch(moved[moved >= 0].tolist()))
        nums, rows = bench.fetch(left[left >= 0].tolist())
        shelf = _to_tail(bench, replace(shelf, arrived=shelf.arrived - len(nums)), nums, rows)
    return shelf


def wipe(bench: Bench, shelf: Shelf, gone: Numbers) -> Shelf:
    """Zero these rows where they lie; what is left of a page that has become small returns to the tail."""
    maps, small = bench.pool.maps, []
    for at, (page, count) in enumerate(shelf.everything()):
        nums = maps.nums[page, :count]
        hit = np.flatnonzero(np.isin(nums, gone))
        for row in hit.tolist():
            bench.pool.wipe(page, row)
        if len(hit) and at < len(shelf.pages) and (nums >= 0).sum() < LEAST_ROWS:
            small.append(at)
    if not small:
        return shelf
    rest = np.concatenate([maps.nums[page] for page in shelf.pages[small]])
    bench.retired += shelf.pages[small].tolist()
    nums, rows = bench.fetch(rest[rest >= 0].tolist())
    return _to_tail(bench, replace(_without(shelf, small), arrived=shelf.arrived - len(nums)), nums, rows)


def _without(shelf: Shelf, ats: list[int]) -> Shelf:
    return replace(
        shelf,
        pages=np.delete(shelf.pages, ats),
        counts=np.delete(shelf.counts, ats),
        centres=np.delete(shelf.centres, ats, axis=0),
        lengths=np.delete(shelf.lengths, ats),
    )


def _to_tail(bench: Bench, shelf: Shelf, nums: Numbers, rows: Vectors) -> Shelf:
    codes, factors = bench.codec.encode(rows, np.zeros(shelf.width, np.float32))
    tail, done = list(shelf.tail), 0
    while done < len(nums):
        if not tail or tail[-1][1] == PAGE_ROWS:
            tail.append((bench.pool.take(), 0))
        page, count = tail[-1]
        some = slice(done, done + PAGE_ROWS - count)
        bench.pool.put(page, count, codes[some], factors[some], nums[some])
        tail[-1] = (page, count + len(nums[some]))
        done += len(nums[some])
    return replace(shelf, tail=tuple(tail), arrived=shelf.arrived + len(nums))


def _place(bench: Bench, shelf: Shelf, nums: Numbers, rows: Vectors) -> Shelf:
    """Each row goes behind the others of its page; pages that overflow are made anew."""
    if not len(nums):
        return shelf
    owner = clusters.nearest(rows, shelf.centres)
    counts, full = shelf.counts.copy(), dict[int, clusters.Indices]()
    for at in np.unique(owner).tolist():
        mine = np.flatnonzero(owner == at)
        if counts[at] + len(mine) > PAGE_ROWS:
            full[at] = mine
            continue
        codes, factors = bench.codec.encode(rows[mine], shelf.centres[at])
        bench.pool.put(int(shelf.pages[at]), int(counts[at]), codes, factors, nums[mine])
        counts[at] += len(mine)
    shelf = replace(shelf, counts=counts)
    if not full:
        return shelf
    made = [new for at, mine in full.items() for new in _split(bench, shelf, at, nums[mine], rows[mine])]
    bench.retired += shelf.pages[list(full)].tolist()
    return _with(_without(shelf, list(full)), made)


_Made = tuple[int, int, Vectors]


def _split(bench: Bench, shelf: Shelf, at: int, nums: Numbers, rows: Vectors) -> list[_Made]:
    held = bench.pool.maps.nums[int(shelf.pages[at]), : int(shelf.counts[at])]
    before, old = bench.fetch(held[held >= 0].tolist())
    return _fresh(bench, np.concatenate([before, nums]), np.concatenate([old, rows]), 2 * TARGET_ROWS // 3)


def _fresh(bench: Bench, nums: Numbers, rows: Vectors, most: int) -> list[_Made]:
    """New pages for these rows, `most` in each: (page, count, centre)."""
    made: list[_Made] = []
    for group in clusters.split(rows, most):
        centre = rows[group].mean(axis=0)
        page = bench.pool.take()
        bench.pool.put(page, 0, *bench.codec.encode(rows[group], centre), nums[group])
        made.append((page, len(group), centre))
    return made


def _with(shelf: Shelf, made: list[_Made]) -> Shelf:
    pages, counts, centres = zip(*made, strict=True)
    return replace(
        shelf,
        pages=np.concatenate([shelf.pages, np.array(pages, np.int64)]),
        counts=np.concatenate([shelf.counts, np.array(counts, np.int64)]),
        centres=np.concatenate([shelf.centres.reshape(-1, shelf.width), np.stack(centres)]),
        lengths=np.concatenate([shelf.lengths, clusters.lengths(np.stack(centres))]),
    )


def empty(bench: Bench, centres: Vectors) -> Shelf:
    """A shelf of clusters that nothing has been put into yet."""
    width = centres.shape[1]
    pages = np.array([bench.pool.take() for _ in centres], np.int64)
    counts = np.zeros(len(pages), np.int64)
    return Shelf(width, pages=pages, counts=counts, centres=centres, lengths=clusters.lengths(centres))


def place(bench: Bench, shelf: Shelf, nums: Numbers, rows: Vectors) -> Shelf:
    """Put rows straight into the clustered pages."""
    return _place(bench, shelf, nums, rows)


def tidy(bench: Bench, shelf: Shelf) -> Shelf:
    """Without the clusters that stayed empty."""
    bare = np.flatnonzero(shelf.counts == 0).tolist()
    bench.retired += shelf.pages[bare].tolist()
    return _without(shelf, bare)
