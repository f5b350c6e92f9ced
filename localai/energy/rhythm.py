"""When a coarse counter is read next: moments and values in, seconds to wait out. Pure.

A counter's value stands for the moment when it changed. Reading it closely around the moment at which it should change
next, and not in between, tells that moment several times better than reading it steadily as often.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from localai.energy.sensor import Spec

_STEADY = 4
"""Readings per period while nothing is known of when the counter changes."""
_CLOSE = 12
"""Readings per period around the moment of a change."""


@dataclass(slots=True)
class Rhythm:
    """Of one sensor; `wait` after each reading."""

    spec: Spec
    _value: float | None = field(default=None, init=False)
    _read_at: float = field(default=0.0, init=False)
    _changed: tuple[float, float] | None = field(default=None, init=False)

    def wait(self, now: float, value: float) -> float:
        """Seconds from `now`, when the sensor said `value`, to the next reading."""
        period, close = self.spec.period_s, self.spec.period_s / _CLOSE
        before, self._read_at = self._read_at, now
        if self._value is not None and value != self._value:
            self._changed = max(before, now - period), now
        self._value = value
        if self._changed is None or self.spec.method != "counter":
            return period / _STEADY
        earliest = self._changed[0] + period - 2 * self.spec.jitter_s
        latest = self._changed[1] + 2 * period
        if now > latest:
            # It stands still, or keeps another time than its kind does.
            self._changed = None
            return period / _STEADY
        return max(close, earliest - now)
