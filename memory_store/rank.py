"""From scores of two searches to one order, by arithmetic alone: fusion, neighbouring turns, ties.

Scores by memory number and links between turns enter, fused scores leave. It knows nothing of the store or of trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

POWER = 3.0
"""Of the mean of words and vectors: what is outstanding by one counts for more than what is middling by both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`turns`: what both neighbours add at most.

    `graph`: what memories that name the same add at most; 0, because on real texts it was measured to help nobody.
    """

    turns: float = 0.4
    graph: float = 0.0


class Parts(NamedTuple):
    """What made a score: words and vectors from 0 to 1 each, and what neighbouring turns and memories that name the
    same lent; `share`: how much the words counted, 0 to 1; `cosine` as it is, `names` those that are shared.
    """

    words: float
    vector: float
    cosine: float = 0.0
    turns: float = 0.0
    graph: float = 0.0
    names: tuple[str, ...] = ()
    score: float = 0.0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One candidate's place in its episode."""

    num: int
    episode: str
    position: int


def fuse(words: Mapping[int, float], vectors: Mapping[int, float], share: float) -> dict[int, Parts]:
    """The power mean of both, each brought to 0..1: words by the best of them, vectors between the ends of their pool.

    `share`: how much the words count, 0 to 1. Bruch et al., "An Analysis of Fusion Functions for Hybrid Retrieval"
    (2023): scores beat ranks, for they keep the distances. Where one search has found nothing, the other decides alone.
    """
    top = max(words.values(), default=0.0)
    high, low = max(vectors.values(), default=0.0), max(0.0, min(vectors.values(), default=0.0))
    # A pool of one, or of equals: as like as its cosine says.
    low = low if high - low > 1e-6 else 0.0
    share = share if words and vectors else float(bool(words))
    found: dict[int, Parts] = {}
    spread = high - low
    for num in words.keys() | vectors.keys():
        cosine = vectors.get(num)
        by_words = words.get(num, 0.0) / top if top > 0 else 0.0
        by_vector = (cosine - low) / spread if cosine is not None and cosine > low and spread > 0 else 0.0
        score = (share * by_words**POWER + (1 - share) * by_vector**POWER) ** (1 / POWER)
        found[num] = Parts(by_words, by_vector, cosine or 0.0, 0.0, 0.0, (), score, share)
    return found


def lend(parts: Mapping[int, Parts], turns: Iterable[Turn], weights: Weights) -> dict[int, Parts]:
    """Add what the turns before and after score by themselves; a turn found by its neighbours alone has that only."""
    places = {(turn.episode, turn.position): turn.num for turn in turns}
    found = dict(parts)
    for (episode, position), num in places.items():
        beside = (places.get((episode, position + step)) for step in (-1, 1))
        lent = sum(parts[other].score for other in beside if other is not None and other in parts)
        lent *= weights.turns / 2
        own = parts.get(num, Parts(words=0.0, vector=0.0))
        found[num] = own._replace(turns=lent, score=own.score + lent)
    return found


def link(
    parts: Mapping[int, Parts], links: Iterable[tuple[int, float, tuple[str, ...]]], weights: Weights
) -> dict[int, Parts]:
    """Add what memories are worth for naming what the best of them name: (number, weight, names) each.

    The strongest link adds `weights.graph`; a memory found by its links alone has that only.
    """
    given = list(links)
    top = max((weight for _, weight, _ in given), default=0.0)
    found = dict(parts)
    for num, weight, names in given:
        lent = weights.graph * weight / top if top > 0 else 0.0
        own = parts.get(num, Parts(words=0.0, vector=0.0))
        found[num] = own._replace(graph=lent, names=names, score=own.score + lent)
    return found


def order(parts: Mapping[int, Parts]) -> Sequence[int]:
    """Best first; of equals the one written first. Nothing that scores nothing."""
    nums = np.fromiter(parts, np.int64, len(parts))
    # Rounded: sums in another order must not swap what is equal.
    scores = np.round(np.fromiter((part.score for part in parts.values()), np.float64, len(parts)), 9)
    found: list[int] = nums[np.lexsort((nums, -scores))[: int((scores > 0).sum())]].tolist()
    return found
