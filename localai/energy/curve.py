"""One sensor's energy as a function of time: readings enter, joules between two moments leave. Pure.

A coarse counter's value stands for the moment when it changed, not when it was read. Between such moments energy is
interpolated; after the last one it is extended by whoever asks, and what was extended is settled with what comes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from localai.energy.sensor import Spec

MOST_KNOTS = 4096
"""Knots kept at a time; they leave as they are booked, so that more only gather where nothing books."""
_STILL = 3
"""Periods without a change after which a counter is taken to stand still."""


@dataclass(slots=True)
class Curve:
    """Moments and joules, ascending. `drift` is the error of a knot's moment in seconds: uniform within +-drift."""

    spec: Spec
    times: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    _read_at: float | None = None
    drift: float = 0.0

    def add(self, before: float, after: float, joules: float) -> bool:
        """Note a reading that took from `before` to `after`; True where it made a knot."""
        middle = (before + after) / 2
        pause = middle - self._read_at if self._read_at is not None else 0.0
        sure = (self._read_at or 0.0) - 2 * self.spec.period_s - self.spec.lag_s - self.spec.jitter_s
        self._read_at = middle
        if self.times and joules == self.joules[-1]:
            # It was renewed meanwhile, and rose by nothing.
            return sure - self.times[-1] > _STILL * self.spec.period_s and self._put(sure, joules)
        if self.times:
            self._put(sure, self.joules[-1])
        # It changed at some moment since it was last read, and within one period.
        width = min(pause, self.spec.period_s) if self.spec.method == "counter" else 0.0
        self.drift = width / 2 + (after - before) / 2 + self.spec.jitter_s
        return self._put(middle - width / 2 - self.spec.lag_s, joules)

    def _put(self, moment: float, joules: float) -> bool:
        if self.times and moment <= self.times[-1]:
            return False
        self.times.append(moment)
        self.joules.append(joules)
        return True

    def forget_before(self, moment: float) -> None:
        """Let go of knots that nothing needs any more; the last one before `moment` stays."""
        place = max(bisect_right(self.times, moment) - 1, len(self.times) - MOST_KNOTS, 0)
        del self.times[:place], self.joules[:place]

    def restart(self) -> None:
        """Forget all: the next reading begins anew."""
        self.times, self.joules, self._read_at = [], [], None

    @property
    def first(self) -> float | None:
        return self.times[0] if self.times else None

    @property
    def last(self) -> float | None:
        return self.times[-1] if self.times else None

    def at(self, moment: float) -> float:
        """Joules at a moment between the first and the last knot, interpolated."""
        place = bisect_right(self.times, moment)
        if place == 0:
            return self.joules[0]
        if place == len(self.times):
            return self.joules[-1]
        t0, t1 = self.times[place - 1], self.times[place]
        e0, e1 = self.joules[place - 1], self.joules[place]
        return e0 + (e1 - e0) * (moment - t0) / (t1 - t0)

    def knows(self, moment: float) -> bool:
        """Whether `moment` is a knot."""
        place = bisect_right(self.times, moment)
        return place > 0 and self.times[place - 1] == moment

    def between(self, begin: float, end: float) -> list[float]:
        """`begin`, the knots after it, and `end`: what to book piece by piece."""
        inside = self.times[bisect_right(self.times, begin) :]
        return [begin, *(t for t in inside if t < end), end]
