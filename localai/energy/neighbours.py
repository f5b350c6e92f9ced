"""How many cores other programs take: the kernel's counters and our own processor time in, cores out.

Looked at only when an answer begins or ends, so that being idle costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_LEAST_S = 0.3
"""A shorter time says little, as the kernel counts in hundredths of a second."""
_STALE_S = 15.0
"""After a longer one the mean of it says little of now."""


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    busy_s: float
    own_s: float
    running: int


class Neighbours:
    """Call it for the cores that others have taken since the call before; 0 where the system does not say.

    `own` gives CPU seconds of the engines; those of this process are counted here.
    """

    def __init__(
        self,
        own: Callable[[], float],
        stat: Path = Path("/proc/stat"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._stat = stat
        self._clock = clock
        self._cores = os.cpu_count() or 1
        self._last = self._look()
        self._known = 0.0

    def __call__(self) -> float:
        if self._last is None:
            return 0.0
        if self._clock() - self._last.at < _LEAST_S:
            return self._known
        now = self._look()
        if now is None:
            return 0.0
        seconds = now.at - self._last.at
        taken = (now.busy_s - self._last.busy_s - (now.own_s - self._last.own_s)) / seconds
        # After a pause only those who run at this moment count, this one not among them.
        self._known = min(self._cores, max(0.0, taken if seconds < _STALE_S else now.running - 1.0))
        self._last = now
        return self._known

    def _look(self) -> _Look | None:
        try:
            lines = self._stat.read_text().splitlines()
            ticks = [int(field) for field in lines[0].split()[1:9]]
            running = next(int(line.split()[1]) for line in lines if line.startswith("procs_running"))
        except (OSError, ValueError, IndexError, StopIteration):
            return None
        busy = sum(ticks) - sum(ticks[3:5])
        return _Look(self._clock(), busy / os.sysconf("SC_CLK_TCK"), self._own() + time.process_time(), running)
