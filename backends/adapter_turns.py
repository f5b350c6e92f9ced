"""Whose adapters the next step runs under. Pure: who is there with which priority, and what steps took, in.

An engine whose adapters belong to its context cannot mix them in a step, and pays for every change. So each group of
sequences under the same adapters keeps the engine for a turn that is long against a change; turns are shared out by
weight, so that nobody starves.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Generic, TypeVar

from backends.contract import Priority

K = TypeVar("K", bound=Hashable)

WEIGHT: dict[Priority, float] = {"interactive": 8.0, "normal": 2.0, "background": 1.0}
"""Shares of the engine's time while groups of these priorities compete."""
LEAST_TURN_S, MOST_TURN_S = 0.05, 0.4
"""Bounds of a turn: the longest is a gap that people feel in another's stream."""
_CHANGES = 10
"""A turn lasts at least as long as this many changes, within those bounds: then they cost a tenth of the time."""
_NEWEST = 0.25
"""Share of the newest change in the running mean."""


class AdapterTurns(Generic[K]):
    """`choose` before each step, `took` after it. `change_s` is the mean of what a change takes, in seconds."""

    def __init__(self) -> None:
        self.change_s = 0.0
        self._current: K | None = None
        self._weights: dict[K, float] = {}
        self._used: dict[K, float] = {}
        self._turn_s = 0.0

    @property
    def turn_s(self) -> float:
        """How long a turn lasts, in seconds."""
        return min(MOST_TURN_S, max(LEAST_TURN_S, _CHANGES * self.change_s))

    def choose(self, present: Mapping[K, Collection[Priority]]) -> K:
        """The group to run now, of those with running sequences; `present` gives their priorities and is not empty.

        A group weighs as much as its most urgent sequence. A newcomer that weighs more than the running group ends
        its turn, so that what is interactive begins at once.
        """
        self._weights = {key: max(WEIGHT[p] for p in priorities) for key, priorities in present.items()}
        newcomers = [key for key in present if key not in self._used]
        known = {key: used for key, used in self._used.items() if key in present}
        # Nobody gathers credit while absent.
        start = min(known.values(), default=0.0)
        self._used = {key: known.get(key, start) for key in present}
        current = self._current
        if current is not None and current in present and self._goes_on(self._weights[current], newcomers):
            return current
        self._turn_s = 0.0
        # Among equals the one that just had its turn comes last.
        chosen = min(present, key=lambda key: (self._used[key], -self._weights[key], key == current))
        self._current = chosen
        return chosen

    def _goes_on(self, weight: float, newcomers: list[K]) -> bool:
        if len(self._used) == 1:
            return True
        return self._turn_s < self.turn_s and all(self._weights[key] <= weight for key in newcomers)

    def took(self, seconds: float, expected: float | None) -> float:
        """Note a step of the chosen group; return how much of it was the change of adapters.

        `expected` is what the step would take without a change; None where there was no change, or nothing is known.
        """
        assert self._current is not None
        self._turn_s += seconds
        self._used[self._current] += seconds / self._weights[self._current]
        if expected is None:
            return 0.0
        change = max(0.0, seconds - expected)
        self.change_s += (change - self.change_s) * (_NEWEST if self.change_s else 1.0)
        return change
