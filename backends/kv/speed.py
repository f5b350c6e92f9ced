"""How fast blocks come back, from what was seen: bytes and seconds in, expected seconds out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

_KEPT = 9
_FEWEST = 3
"""Readings of which one may be an accident (a thread that had to wait for a core), before which all is tried."""
_AGE_S = 120.0
"""What was slow so long ago is tried again: nothing is read of what is not tried."""


class _Rate:
    """The median of the newest readings, in bytes per second. One thread writes, another may read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._readings: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def note(self, size: int, seconds: float) -> None:
        self._readings.append((self._clock(), size / max(seconds, 1e-9)))

    def seconds(self, size: int) -> float:
        oldest = self._clock() - _AGE_S
        rates = [rate for at, rate in tuple(self._readings) if at >= oldest]
        return size / median(rates) if len(rates) >= _FEWEST else 0.0


class Speed:
    """How fast the disk reads and the engine takes back, each fed by a thread of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = _Rate(clock)
        self._append = _Rate(clock)

    def read(self, size: int, seconds: float) -> None:
        """Note that reading and checking `size` bytes took so long."""
        self._read.note(size, seconds)

    def append(self, size: int, seconds: float) -> None:
        """Note that the engine took `size` bytes back in so long."""
        self._append.note(size, seconds)

    def restore_s(self, size: int, *, from_ssd: bool) -> float:
        """Expected seconds until `size` bytes are in the cells; 0 for what was hardly seen, so that it is tried."""
        return self._append.seconds(size) + (self._read.seconds(size) if from_ssd else 0.0)
