"""What the machine draws while nothing of ours runs: energy of idle times in, one figure with its spread out. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LEAST_S = 1.0
"""Seconds that an idle time must last to say something."""
_KEPT = 8


@dataclass(slots=True)
class Baseline:
    """Watts of the loaded idle machine: the lower quartile of the last idle times, as other programs only add."""

    fixed: float | None = None
    _seconds: float = 0.0
    _joules: float = 0.0
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note(self, seconds: float, joules: float) -> None:
        """Take a piece of idle time into account; pieces that follow each other make one."""
        self._seconds += seconds
        self._joules += joules
        if self._seconds >= LEAST_S:
            self._seen.append(self._joules / self._seconds)
            self.interrupt()

    def interrupt(self) -> None:
        """The machine is idle no more."""
        self._seconds, self._joules = 0.0, 0.0

    @property
    def watts(self) -> float | None:
        """None before the first idle time."""
        if self.fixed is not None:
            return self.fixed
        ordered = sorted(self._seen)
        return ordered[(len(ordered) - 1) // 4] if ordered else None

    @property
    def spread(self) -> float:
        """Standard error in watts: half of what the lower half of idle times differ by; a tenth for a single one."""
        if self.fixed is not None or not self._seen:
            return 0.0
        ordered = sorted(self._seen)
        if len(ordered) == 1:
            return 0.1 * ordered[0]
        return max(0.02 * ordered[0], (ordered[len(ordered) // 2] - ordered[0]) / 2)
