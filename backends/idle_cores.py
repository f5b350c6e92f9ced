"""How many cores of the machine had nothing to do lately, as far as the system says."""

from __future__ import annotations

import os
from pathlib import Path


class IdleCores:
    """Call it for the idle cores since the call before (or since it was made); None where the system does not say."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._last = self._read()

    def __call__(self) -> float | None:
        before, now = self._last, self._read()
        if before is None or now is None or now[1] <= before[1]:
            return None
        self._last = now
        return (now[0] - before[0]) / (now[1] - before[1]) * (os.cpu_count() or 1)

    def _read(self) -> tuple[int, int] | None:
        """Idle and total ticks since boot."""
        try:
            fields = [int(field) for field in self._stat.read_text().split("\n")[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        return (fields[3] + fields[4], sum(fields)) if len(fields) == 8 else None
