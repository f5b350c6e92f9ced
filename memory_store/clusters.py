"""Spherical k-means and its uses: centres of pages, the nearest centre, a page that is full cut in two.

Unit vectors enter, centres and assignments leave. The same rows in the same order give the same result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors

Indices = npt.NDArray[np.intp]

SEED = 5
ROUNDS = 6
AT_ONCE = 8192
SPLIT_ROUNDS = 4


def train(sample: Vectors, count: int) -> Vectors:
    """(count, width) means of the clusters; not of length one, so that a tight cluster has a longer centre."""
    chosen = np.random.default_rng(SEED).choice(len(sample), count, replace=False)
    centres = sample[np.sort(chosen)].copy()
    for _ in range(ROUNDS):
        # By direction: else long centres of tight clusters draw everything.
        centres = means(sample, nearest(sample, centres), centres)
    return centres


def nearest(rows: Vectors, centres: Vectors) -> Indices:
    """For each row the centre with the smallest distance."""
    half = np.einsum("ij,ij->i", centres, centres) / 2
    found = np.empty(len(rows), np.intp)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        found[start : start + AT_ONCE] = (part @ centres.T - half).argmax(axis=1)
    return found


def means(rows: Vectors, owner: Indices, before: Vectors) -> Vectors:
    """The mean of each cluster; an empty one keeps the centre that it had."""
    order = np.argsort(owner, kind="stable")
    present, starts, counts = np.unique(owner[order], return_index=True, return_counts=True)
    result = before.copy()
    if len(present):
        result[present] = np.add.reduceat(rows[order], starts, axis=0) / counts[:, None]
    return result


def split(rows: Vectors, most: int) -> list[Indices]:
    """Groups of at most `most` near rows, by cutting in two until they are small enough."""
    whole = [np.arange(len(rows))]
    done: list[Indices] = []
    while whole:
        group = whole.pop()
        if len(group) <= most:
            done.append(group)
            continue
        left = _halves(rows[group])
        whole += [group[~left], group[left]]
    return done


def lengths(centres: Vectors) -> Vectors:
    """Of each centre; never 0."""
    found: Vectors = np.maximum(np.linalg.norm(centres, axis=1), 1e-9).astype(np.float32)
    return found


def _halves(rows: Vectors) -> npt.NDArray[np.bool_]:
    """True for one of two clusters; by order where the rows do not differ, or where one side would be tiny."""
    middle = rows.mean(axis=0)
    axis = rows[np.square(rows - middle).sum(axis=1).argmax()] - middle
    for _ in range(SPLIT_ROUNDS):
        side = (rows - middle) @ axis > 0
        if not 0 < side.sum() < len(rows):
            break
        axis = rows[side].mean(axis=0) - rows[~side].mean(axis=0)
        middle = (rows[side].mean(axis=0) + rows[~side].mean(axis=0)) / 2
    along = (rows - middle) @ axis
    left: npt.NDArray[np.bool_] = along > 0
    if not len(rows) // 16 < left.sum() < len(rows) - len(rows) // 16:
        left = np.zeros(len(rows), np.bool_)
        left[np.argsort(along, kind="stable")[: len(rows) // 2]] = True
    return left
