"""How fast the disk brings what several threads read at a time, kept fresh: a disk's rate changes while it is used.

Beginnings and ends of reads enter; a rate and the span of the latest ones leave. Safe to use from all threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_LEAST = 32 * 2**20
"""Bytes of a stretch at least: shorter ones tell of single reads."""
_STRETCHES = 8
"""Stretches that are remembered; a disk that others share has changed after more."""
_FADE = 0.6
"""What a stretch counts for against the one after it."""
_DOUBT = 0.05
"""Share by which the span is wider than what was seen: so far apart are two readings of a quiet disk."""


class DiskClock:
    """Begins at `rate` bytes per second, which counts until a stretch was read.

    A stretch is what one token brings (`token_bytes`), so that one slow moment within a token does not speak for it.
    """

    def __init__(self, rate: float, token_bytes: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._readers = 0
        self._since = 0.0
        self._first = rate
        self._length = max(_LEAST, token_bytes)
        self._stretches: deque[tuple[float, float]] = deque(maxlen=_STRETCHES)
        self._bytes = self._seconds = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second, of the latest stretches most."""
        with self._lock:
            known = [(*stretch, _FADE**age) for age, stretch in enumerate(reversed(self._stretches))]
        if not known:
            return self._first
        return sum(weight * size for size, _, weight in known) / sum(weight * spent for _, spent, weight in known)

    @property
    def span(self) -> tuple[float, float]:
        """The slowest and the fastest of the latest stretches, and a little beyond; of what it began with, before."""
        with self._lock:
            rates = [size / spent for size, spent in self._stretches] or [self._first]
        return min(rates) * (1 - _DOUBT), max(rates) * (1 + _DOUBT)

    def begin(self) -> None:
        """A thread begins to read."""
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._since = self._now()

    def end(self, size: int) -> None:
        """One of those that began has got `size` bytes."""
        with self._lock:
            now = self._now()
            self._bytes += size
            self._seconds += now - self._since
            self._readers -= 1
            self._since = now
            if self._bytes >= self._length and self._seconds > 0:
                self._stretches.append((self._bytes, self._seconds))
                self._bytes = self._seconds = 0.0
