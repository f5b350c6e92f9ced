"""Which model answers a query, and whether its answer is checked first: abilities and a query in, a Plan out. Pure.

A plan is one model, or a thrifty one whose answer another model replaces where its samples disagree. Of the plans that
should reach the asked share of the best accuracy, the one that should take the fewest joules is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localai.auto.abilities import Ability
from localai.forecast import Workload

_SURE = 0.7
"""Chance of being good enough from which on an answer is given unchecked."""
_RIGHT, _WRONG = (0.30, 0.64), (0.59, 0.72)
"""How often a sample says otherwise than a right and a wrong answer, and the next one too where the last ones did.

Of the starter's answers to 200 questions, by `tests.perf.samples`.
"""
_LEAST_ACCURACY = 0.3
"""A model that is right less often is not worth asking first."""


@dataclass(frozen=True, slots=True)
class Bid:
    """What one ability promises for the query: expected accuracy with its standard deviation, and joules."""

    ability: Ability
    accuracy: float
    spread: float
    joules: float


@dataclass(frozen=True, slots=True)
class Plan:
    """`first` answers; with `then`, its answer is checked, and `then` answers where the check fails.

    `samples` tells that the check is made by samples of `first`; else by the form of its answer alone.

    `accuracy` and `joules` are what the plan as a whole should come to; `best` is the most accurate single model,
    `largest` the one with the most bytes. `tight` says that no plan fits the joules that were allowed.
    """

    first: Bid
    then: Bid | None
    accuracy: float
    joules: float
    best: Bid
    largest: Bid
    samples: bool = False
    tight: bool = False

    @property
    def times(self) -> float:
        """What the largest model would take, by what `first` takes."""
        return self.largest.joules / self.first.joules

    @property
    def lost(self) -> float:
        """Accuracy that is expected to be lost against the largest model; below 0 where some is gained."""
        return self.largest.accuracy - self.accuracy


def bids(
    abilities: Sequence[Ability], mix: Mapping[str, float], work: Workload, held: Mapping[str, int]
) -> tuple[Bid, ...]:
    """Cheapest first. `held` are tokens of the prompt that lie in the cache, by ability as text."""
    found = []
    for each in abilities:
        cached = min(held.get(str(each), 0), work.prompt)
        here = Workload(
            prompt=work.prompt, answer=work.answer, cached=cached, prompts=work.prompts, choices=work.choices
        )
        found.append(Bid(each, *each.expected(mix), each.joules(here)))
    return tuple(sorted(found, key=lambda bid: (bid.joules, -bid.accuracy)))


def plan(
    found: Sequence[Bid],
    least: float,
    limit: float | None,
    sample: Workload | None = None,
    *,
    samples: int = 1,
    form: bool = False,
) -> Plan:
    """The plan for a query of which `found`, at least one, are the bids.

    `least` is the share of the best accuracy to reach, `limit` joules that may be spent. `sample` is what one more
    sample of an answer takes, None where answers of this query cannot be told alike by a program; at most `samples`
    are taken. `form` tells that their form can be checked.
    """
    best = max(found, key=lambda bid: (bid.accuracy, -bid.joules))
    largest = max(found, key=lambda bid: (bid.ability.size_bytes, bid.accuracy))
    bar = least * best.accuracy
    plans = []
    for bid in found:
        sure = bid is best or _surely(bid, best, least)
        if bid is best or (bid.accuracy >= bar and (sure or sample is None)):
            then = best if form and not sure else None
            plans.append(Plan(bid, then, bid.accuracy, bid.joules, best, largest))
    if sample is not None:
        pairs = [(a, b) for a in found for b in found if a.joules < b.joules and a.accuracy < b.accuracy]
        checked = [_checked(a, b, sample, samples, best, largest) for a, b in pairs if a.accuracy >= _LEAST_ACCURACY]
        plans += [each for each in checked if each.accuracy >= bar]
    fits = [each for each in plans if limit is None or each.joules <= limit]
    if fits:
        return min(fits, key=lambda each: (each.joules, -each.accuracy))
    cheapest = min(found, key=lambda bid: (bid.joules, -bid.accuracy))
    affordable = [bid for bid in found if limit is not None and bid.joules <= limit]
    taken = max(affordable, key=lambda bid: (bid.accuracy, -bid.joules)) if affordable else cheapest
    return Plan(taken, None, taken.accuracy, taken.joules, best, largest, tight=True)


def _surely(bid: Bid, best: Bid, least: float) -> bool:
    """Whether the bid reaches the asked share with enough certainty; both posteriors taken as normal."""
    spread = math.hypot(bid.spread, least * best.spread)
    gap = bid.accuracy - least * best.accuracy
    return 0.5 * (1 + math.erf(gap / (spread * math.sqrt(2)))) >= _SURE if spread else gap >= 0


def _checked(first: Bid, then: Bid, sample: Workload, most: int, best: Bid, largest: Bid) -> Plan:
    """What a check by at most `most` samples should come to: it ends at one that agrees, else `then` is asked."""
    denied = [
        first.accuracy * _denied(_RIGHT, count) + (1 - first.accuracy) * _denied(_WRONG, count)
        for count in range(most + 1)
    ]
    joules = first.joules + sum(denied[:-1]) * first.ability.joules(sample) + denied[-1] * then.joules
    kept = first.accuracy * (1 - _denied(_RIGHT, most))
    return Plan(first, then, kept + denied[-1] * then.accuracy, joules, best, largest, samples=True)


def _denied(chances: tuple[float, float], samples: int) -> float:
    """How often all of so many samples say otherwise."""
    first, again = chances
    return first * again ** (samples - 1) if samples else 1.0
