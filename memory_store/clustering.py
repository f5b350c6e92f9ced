"""A namespace clustered from its rows: sample, centres, pages, and how far a search must reach.

Numbers and a way to fetch their vectors enter, a shelf leaves. Rows are read in batches: memory stays small.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from memory_store import clusters, shelving
from memory_store.embed import Vectors
from memory_store.pages import Numbers
from memory_store.shelf import Shelf
from memory_store.shelving import TARGET_ROWS, Bench

SAMPLE_PER_CENTRE = 32
MOST_CENTRES = 4096
QUESTIONS = 192
NEIGHBOURS = 10
# Of the true neighbours of rows that were asked like questions, the share that must be within reach.
WITHIN_REACH = 0.993
AT_ONCE = 4096


def cluster(bench: Bench, nums: Numbers, arrived: int) -> Shelf:
    """All these rows in pages of about 320. The same numbers give the same shelf."""
    random = np.random.default_rng(len(nums))
    count = min(MOST_CENTRES, max(1, len(nums) // TARGET_ROWS))
    drawn = random.permutation(len(nums))
    asked = np.sort(nums[drawn[:QUESTIONS]])
    chosen = np.sort(nums[drawn[QUESTIONS : QUESTIONS + count * SAMPLE_PER_CENTRE]])
    _, sample = bench.fetch(chosen.tolist())
    centres = clusters.train(sample, count)
    shelf = shelving.empty(bench, centres, _spreads(sample, centres))
    asked, questions = bench.fetch(asked.tolist())
    near_scores = np.full((len(questions), NEIGHBOURS), -2, np.float32)
    near_nums = np.full((len(questions), NEIGHBOURS), -1, np.int64)
    for start in range(0, len(nums), AT_ONCE):
        found, rows = bench.fetch(nums[start : start + AT_ONCE].tolist())
        shelf = shelving.place(bench, shelf, found, rows)
        near_scores, near_nums = _keep_best(near_scores, near_nums, questions, asked, found, rows)
    shelf = shelving.tidy(bench, shelf)
    reach = _reach(bench, shelf, questions, near_scores, near_nums)
    return replace(shelf, reach=reach, trained=arrived, arrived=arrived)


def _spreads(sample: Vectors, centres: Vectors) -> Vectors:
    owner = clusters.nearest(sample, centres)
    squares = np.square(sample - centres[owner]).sum(axis=1)
    counts = np.bincount(owner, minlength=len(centres))
    sums = np.bincount(owner, squares, minlength=len(centres))
    # A cluster of few samples borrows from all: its own spread is a guess.
    whole = sums.sum() / max(1, counts.sum())
    spreads: Vectors = np.sqrt((sums + 4 * whole) / (counts + 4)).astype(np.float32)
    return spreads


def _keep_best(
    scores: Vectors, nums: Numbers, questions: Vectors, asked: Numbers, found: Numbers, rows: Vectors
) -> tuple[Vectors, Numbers]:
    """The best so far with these rows among them; a question is no neighbour of itself."""
    products = questions @ rows.T
    products[asked[:, None] == found[None, :]] = -2
    together = np.concatenate([scores, products], axis=1)
    numbers = np.concatenate([nums, np.broadcast_to(found, products.shape)], axis=1)
    best = np.argpartition(-together, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    return np.take_along_axis(together, best, 1), np.take_along_axis(numbers, best, 1)


def _reach(bench: Bench, shelf: Shelf, questions: Vectors, scores: Vectors, nums: Numbers) -> float:
    """A page is read while centre score + reach * spread is at least the last neighbour's score."""
    needed: list[Vectors] = []
    last = scores.min(axis=1)
    for question, least, near in zip(questions, last, nums, strict=True):
        _, rows = bench.fetch(near[near >= 0].tolist())
        at = clusters.nearest(rows, shelf.centres)
        needed.append((least - shelf.centres[at] @ question) / np.maximum(shelf.spreads[at], 1e-6))
    return float(np.quantile(np.concatenate(needed), WITHIN_REACH))
