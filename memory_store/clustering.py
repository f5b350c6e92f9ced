"""A namespace clustered from its rows: sample, centres, pages, and how many of them a search must read.

Numbers and a way to fetch their vectors enter, a shelf leaves. Rows are read in batches: memory stays small.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from memory_store import clusters, shelving
from memory_store.embed import Vectors
from memory_store.pages import Numbers
from memory_store.shelf import Shelf, towards
from memory_store.shelving import TARGET_ROWS, Bench

SAMPLE_PER_CENTRE = 32
MOST_CENTRES = 4096
QUESTIONS = 384
NEIGHBOURS = 10
# Of the true neighbours of rows that were asked like questions, how many must be in the pages read.
WITHIN_SHARE = 0.965
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
    shelf = shelving.empty(bench, centres)
    asked, questions = bench.fetch(asked.tolist())
    near_scores = np.full((len(questions), NEIGHBOURS), -2, np.float32)
    near_nums = np.full((len(questions), NEIGHBOURS), -1, np.int64)
    for start in range(0, len(nums), AT_ONCE):
        found, rows = bench.fetch(nums[start : start + AT_ONCE].tolist())
        shelf = shelving.place(bench, shelf, found, rows)
        near_scores, near_nums = _keep_best(near_scores, near_nums, questions, asked, found, rows)
    shelf = shelving.tidy(bench, shelf)
    return replace(shelf, share=_share(bench, shelf, questions, near_nums), trained=arrived, arrived=arrived)


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


def _share(bench: Bench, shelf: Shelf, questions: Vectors, nums: Numbers) -> float:
    """Reading this share of the rows, in the order that a search takes, finds the neighbours that must be found."""
    maps, wanted = bench.pool.maps, np.unique(nums[nums >= 0])
    home = np.zeros(len(wanted), np.int64)
    for at, (page, count) in enumerate(shelf.everything()):
        here = maps.nums[page, :count]
        home[np.searchsorted(wanted, here[np.isin(here, wanted)])] = at
    needed: list[npt.NDArray[np.float64]] = []
    for question, near in zip(questions, nums, strict=True):
        order = towards(replace(shelf, share=1.0), shelf.centres @ question)
        held = np.empty(len(order), np.float64)
        held[order] = np.cumsum(shelf.counts[order])
        needed.append(held[home[np.searchsorted(wanted, near[near >= 0])]])
    return float(np.quantile(np.concatenate(needed), WITHIN_SHARE) / shelf.counts.sum()) if needed else 1.0
