"""A small ranker that learns what this user keeps: pairwise logistic regression on what was kept and what was not.

Events enter, a Model leaves, which multiplies scores. Deterministic: the same events give the same model. It knows
nothing of the store. Source: Joachims, "Optimizing Search Engines using Clickthrough Data" (2002), with a logistic
loss; a pair is a kept hit and one that was shown beside it and not kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from memory_store.features import DENSE, HABITS, Floats, Row

FEWEST = 50
"""Events below which nothing is learned."""
MOST_FACTOR = 8.0
"""A hit's score is multiplied or divided by this at most."""
PENALTIES = (1.0, 4.0, 16.0)
FOLDS = 5
DEPTH = 5
_SHRINK = 2.0
_LEAST_SLOPE = 0.3
_NEWTON_STEPS = 12
_Z = 1.645  # one-sided 5 %


@dataclass(frozen=True, slots=True)
class Event:
    """The hits that one question showed, best first, and which of them were kept."""

    rows: tuple[Row, ...]
    kept: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """nDCG@5 over held-out events without and with what was learned; `lower` bounds the gain from below (5 %).

    `lately` is the gain on the newest fifth, learned from the older events alone.
    """

    events: int
    before: float
    after: float
    lower: float
    lately: float

    @property
    def worth(self) -> bool:
        """True where it has won on events that it had not seen, and does not lose on the newest."""
        return self.lower > 0 and self.lately >= 0


@dataclass(frozen=True, slots=True)
class Model:
    """Weights over standardised features; `slope` is that of the score's logarithm. `habits`: log-odds by key."""

    slope: float
    weights: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    habits: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def factors(self, rows: Sequence[Row]) -> Floats:
        """What each score is multiplied by, from 1/8 to 8; never above 1 for rows that may not be promoted.

        Only differences between the rows count, so the one in the middle keeps its score.
        """
        if not rows:
            return np.ones(0)
        plain = (_matrix(rows, self.habits) - self.means) / self.scales
        gains = plain @ np.array(self.weights) / self.slope
        limit = np.log(MOST_FACTOR)
        gains = np.clip(gains - np.median(gains), -limit, limit)
        bounded = np.array([row.bounded for row in rows])
        factors: Floats = np.exp(np.where(bounded, np.minimum(gains, 0.0), gains))
        return factors


def learn(events: Sequence[Event]) -> tuple[Model, Report]:
    """The model of all events, and what it is worth by cross-validation over them."""
    usable = [event for event in events if any(event.kept) and not all(event.kept)]
    before = np.array([_ndcg(event, [row.score for row in event.rows]) for event in usable])
    best = max(PENALTIES, key=lambda penalty: (_held_out(usable, penalty).mean() if usable else 0.0, penalty))
    after = _held_out(usable, best)
    gain = after - before
    lower = float(gain.mean() - _Z * gain.std() / np.sqrt(max(1, len(gain)))) if len(gain) else 0.0
    cut = 4 * len(usable) // 5
    lately = _scored(fit(usable[:cut], best), usable[cut:]) - before[cut:]
    report = Report(
        events=len(usable),
        before=_mean(before),
        after=_mean(after),
        lower=lower if len(usable) >= FEWEST else 0.0,
        lately=_mean(lately),
    )
    return fit(usable, best), report


def fit(events: Sequence[Event], penalty: float) -> Model:
    """Newton's method on the penalised pairwise loss. The score itself is not penalised: it is what is corrected."""
    counts = _counts(events)
    # Without the event itself, else a habit would foretell what it was counted from.
    matrices = [_matrix(event.rows, _others_odds(counts, event)) for event in events]
    width = len(DENSE) + len(HABITS)
    every = np.concatenate([np.zeros((1, width)), *matrices])
    means, scales = every.mean(axis=0), np.maximum(every.std(axis=0), 1e-3)
    pairs, shares = _pairs(events, [(matrix - means) / scales for matrix in matrices])
    weights = np.zeros(width + 1)
    weights[0] = 2.0
    start, strength = weights.copy(), np.full(width + 1, penalty)
    strength[0] = 0.1
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(np.clip(pairs @ weights, -30, 30)))
        slope = strength * (weights - start) - pairs.T @ (shares * chance)
        bend = np.diag(strength) + (pairs * (shares * chance * (1 - chance))[:, None]).T @ pairs
        weights = weights - np.linalg.solve(bend, slope)
    return Model(
        slope=max(float(weights[0]), _LEAST_SLOPE),
        weights=tuple(map(float, weights[1:])),
        means=tuple(map(float, means)),
        scales=tuple(map(float, scales)),
        habits={key: _log_odds(*count) for key, count in sorted(counts.items())},
    )


def _pairs(events: Sequence[Event], matrices: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Differences of kept and not kept, the score's logarithm first; the pairs of one event weigh one together."""
    differences: list[Floats] = [np.zeros((0, len(DENSE) + len(HABITS) + 1))]
    shares: list[Floats] = [np.zeros(0)]
    for event, matrix in zip(events, matrices, strict=True):
        scores = np.log([max(row.score, 1e-6) for row in event.rows])
        whole = np.column_stack([scores, matrix])
        kept = np.array(event.kept)
        found = (whole[kept][:, None, :] - whole[~kept][None, :, :]).reshape(-1, whole.shape[1])
        differences.append(found)
        shares.append(np.full(len(found), 1 / max(1, len(found))))
    return np.concatenate(differences), np.concatenate(shares)


def _matrix(rows: Sequence[Row], odds: Mapping[tuple[int, int], float]) -> Floats:
    made = np.zeros((len(rows), len(DENSE) + len(HABITS)))
    for number, row in enumerate(rows):
        made[number, : len(DENSE)] = row.dense
        for key in row.keys:
            made[number, len(DENSE) + key[0]] += odds.get(key, 0.0)
    return made


def _counts(events: Sequence[Event]) -> dict[tuple[int, int], tuple[float, float]]:
    """How often what has a key was kept, and how often it was shown and not."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for event in events:
        for row, kept in zip(event.rows, event.kept, strict=True):
            for key in row.keys:
                yes, no = found.get(key, (0.0, 0.0))
                found[key] = (yes + kept, no + (not kept))
    return found


def _others_odds(counts: Mapping[tuple[int, int], tuple[float, float]], event: Event) -> dict[tuple[int, int], float]:
    found = {}
    for key, (own_yes, own_no) in _counts([event]).items():
        yes, no = counts[key]
        found[key] = _log_odds(yes - own_yes, no - own_no)
    return found


def _log_odds(yes: float, no: float) -> float:
    """Shrunk towards what is usual, one kept of five, where little was seen."""
    usual = 0.2
    return math.log((yes + _SHRINK * usual) / (no + _SHRINK * (1 - usual))) - math.log(usual / (1 - usual))


def _held_out(events: Sequence[Event], penalty: float) -> Floats:
    found = np.zeros(len(events))
    for fold in range(FOLDS):
        held = list(range(fold, len(events), FOLDS))
        model = fit([event for number, event in enumerate(events) if number % FOLDS != fold], penalty)
        found[held] = _scored(model, [events[number] for number in held])
    return found


def _scored(model: Model, events: Sequence[Event]) -> Floats:
    return np.array(
        [_ndcg(event, np.array([row.score for row in event.rows]) * model.factors(event.rows)) for event in events]
    )


def _ndcg(event: Event, scores: Sequence[float] | Floats) -> float:
    """nDCG@5; every kept hit is worth the same. Equal scores stay in the order shown."""
    order = np.argsort(-np.round(np.asarray(scores), 9), kind="stable")[:DEPTH]
    discount = 1 / np.log2(np.arange(2, DEPTH + 2))
    gained = sum(discount[place] for place, number in enumerate(order) if event.kept[number])
    return float(gained / discount[: min(DEPTH, sum(event.kept))].sum())


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
