"""The best texts for some terms by BM25, over the segments of one namespace.

Terms enter, numbers of memories and scores leave. Every posting of every term is added up: with impacts of a byte that
was measured to take a third of the time of leaving some out (MaxScore), at a million texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory_store.postings import FULL, Ints, Scores, Segment

# Postings that are added in one step: short lists are not worth a step each, and of long ones no more than the
# processor's cache keeps between their reading and their adding.
LEAST_STEP = 8192
MOST_STEP = 16_384
SPREAD_STEP = 131_072
# Heaps of documents for each hit, by whose highest one tells how high the hits are.
HEAPS = 8

# Postings of one term, and what an impact of them is multiplied with.
_Run = tuple[slice, float]


def search(segments: Sequence[Segment], terms: Sequence[str], k: int) -> tuple[Ints, Scores]:
    """The best `k`, equal scores by number. `segments` as `postings.weighed` gives them."""
    weights = _weights(segments, terms)
    found = [_best(part, weights, k) for part in segments]
    nums = np.concatenate([numbers for numbers, _ in found]) if found else np.zeros(0, np.int64)
    scores = np.concatenate([values for _, values in found]) if found else np.zeros(0, np.float32)
    order = np.lexsort((nums, -scores))[:k]
    return nums[order], scores[order]


def _weights(segments: Sequence[Segment], terms: Sequence[str]) -> list[tuple[str, float]]:
    """The highest first, each for an impact of 1."""
    total = sum(len(part.nums) for part in segments)
    weighed = []
    for term in dict.fromkeys(terms):
        frequency = sum(run.stop - run.start for run in (part.run(term) for part in segments))
        if frequency:
            rarity = float(np.log1p(max(0.0, total - frequency + 0.5) / (frequency + 0.5)))
            weighed.append((term, rarity * FULL / 255))
    return sorted(weighed, key=lambda item: (-item[1], item[0]))


def _best(part: Segment, weights: list[tuple[str, float]], k: int) -> tuple[Ints, Scores]:
    scores = np.zeros(len(part.nums), np.float32)
    # In the order of the terms, one after the other: a sum does not depend on what was taken together.
    runs: list[_Run] = []
    for term, weight in weights:
        spread = part.spread_of(term)
        if spread is None:
            runs.append((part.run(term), weight))
        else:
            _add(part, runs, scores)
            runs = []
            for start in range(0, len(scores), SPREAD_STEP):
                some = spread[start : start + SPREAD_STEP]
                scores[start : start + SPREAD_STEP] += np.multiply(some, np.float32(weight), dtype=np.float32)
    _add(part, runs, scores)
    least = _at_least(scores, k)
    found = np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores > 0)
    found = found[scores[found] >= _least(scores[found], k)]
    return part.nums[found], scores[found]


def _add(part: Segment, runs: Sequence[_Run], scores: Scores) -> None:
    for step in _steps(runs):
        docs = [part.docs[run].astype(np.intp) for run, _ in step]
        worth = [np.multiply(part.impacts[run], np.float32(weight), dtype=np.float32) for run, weight in step]
        np.add.at(scores, _joined(docs), _joined(worth))


def _steps(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    step: list[_Run] = []
    held = 0
    for run, weight in runs:
        for start in range(run.start, run.stop, MOST_STEP):
            piece = slice(start, min(run.stop, start + MOST_STEP))
            step.append((piece, weight))
            held += piece.stop - piece.start
            if held >= LEAST_STEP:
                yield step
                step, held = [], 0
    if step:
        yield step


def _joined(pieces: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _at_least(scores: Scores, k: int) -> float:
    """Not above the `k`th highest, and mostly near it: as many heaps have a member at least so high."""
    heaps = HEAPS * k
    depth = len(scores) // heaps
    if depth < 2:
        return _least(scores, k)
    return _least(scores[: depth * heaps].reshape(depth, heaps).max(axis=0), k)


def _least(values: Scores, k: int) -> float:
    """The `k`th highest; 0 where there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0
