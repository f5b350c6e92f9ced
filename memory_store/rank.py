"""From scores of two searches to one order, by arithmetic alone: fusion, neighbouring turns, ties.

Scores by memory number and links between turns enter, fused scores leave. It knows nothing of the store or of trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`words`: the share of the words' score, the rest is the vectors'. `turns`: what both neighbours add at most."""

    words: float = 0.7
    turns: float = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What made a score: words and vectors from 0 to 1 each, and what neighbouring turns lent; `cosine` as it is."""

    words: float
    vector: float
    cosine: float = 0.0
    turns: float = 0.0
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One candidate's place in its episode."""

    num: int
    episode: str
    position: int


def fuse(words: Mapping[int, float], vectors: Mapping[int, float], weights: Weights) -> dict[int, Parts]:
    """The convex sum of both, each brought to 0..1: words by the best of them, vectors between the ends of their pool.

    Bruch et al., "An Analysis of Fusion Functions for Hybrid Retrieval" (2023): it beats rank fusion, and keeps the
    distances. Where one search has found nothing, the other decides alone.
    """
    top = max(words.values(), default=0.0)
    high, low = max(vectors.values(), default=0.0), max(0.0, min(vectors.values(), default=0.0))
    # A pool of one, or of equals: as like as its cosine says.
    low = low if high - low > 1e-6 else 0.0
    share = weights.words if words and vectors else float(bool(words))
    found: dict[int, Parts] = {}
    for num in words.keys() | vectors.keys():
        by_words = words.get(num, 0.0) / top if top > 0 else 0.0
        by_vector = max(0.0, (vectors.get(num, low) - low) / (high - low)) if high > low else 0.0
        score = share * by_words + (1 - share) * by_vector
        found[num] = Parts(words=by_words, vector=by_vector, cosine=vectors.get(num, 0.0), score=score)
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
        found[num] = replace(own, turns=lent, score=own.score + lent)
    return found


def order(parts: Mapping[int, Parts]) -> Sequence[int]:
    """Best first; of equals the one written first. Nothing that scores nothing."""
    # Rounded: sums in another order must not swap what is equal.
    scored = ((-round(part.score, 9), num) for num, part in parts.items() if part.score > 1e-9)
    return [num for _, num in sorted(scored)]
