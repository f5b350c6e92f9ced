"""What the machine draws while nothing of ours runs: energy of idle times in, one figure with its error out. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LEAST_S = 1.0
"""Seconds that an idle time must last to say something."""
_KEPT = 16
_ALIKE = 1.1
"""Idle times that took more than the least, times this, had other programs running."""


@dataclass(slots=True)
class _Idle:
    seconds: float = 0.0
    joules: float = 0.0

    @property
    def watts(self) -> float:
        return self.joules / self.seconds


@dataclass(slots=True)
class Baseline:
    """Watts of the loaded idle machine: the mean of the last idle times, without those when others worked."""

    fixed: float | None = None
    _running: _Idle = field(default_factory=_Idle)
    _seen: deque[_Idle] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note(self, seconds: float, joules: float) -> None:
        """Take a piece of idle time into account; pieces that follow each other make one."""
        self._running.seconds += seconds
        self._running.joules += joules

    def interrupt(self) -> None:
        """The machine is idle no more."""
        if self._running.seconds >= LEAST_S:
            self._seen.append(self._running)
        self._running = _Idle()

    def _alike(self) -> list[_Idle]:
        known = [*self._seen, *([self._running] if self._running.seconds >= LEAST_S else [])]
        least = min((idle.watts for idle in known), default=0.0)
        return [idle for idle in known if idle.watts <= _ALIKE * least]

    @property
    def watts(self) -> float | None:
        """None before the first idle time."""
        if self.fixed is not None:
            return self.fixed
        alike = self._alike()
        return sum(idle.joules for idle in alike) / sum(idle.seconds for idle in alike) if alike else None

    def error(self, drift: float) -> float:
        """Standard error in watts: ends of idle times are uncertain by `drift` seconds, and idle times differ."""
        alike = self._alike()
        if self.fixed is not None or not alike:
            return 0.0
        seconds = sum(idle.seconds for idle in alike)
        mean = sum(idle.joules for idle in alike) / seconds
        differ = sum(idle.seconds * (idle.watts - mean) ** 2 for idle in alike) / seconds / len(alike)
        ends = mean * drift * (2 * len(alike) / 3) ** 0.5 / seconds
        return float((differ + ends**2) ** 0.5)
