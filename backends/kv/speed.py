"""How fast blocks come back, from what was seen: bytes and seconds in, expected seconds out."""

from __future__ import annotations

_NEWEST = 0.25
"""Share of the newest reading in the running means."""


class Speed:
    """Means of bytes per second; None before the first reading. Fed by two threads, each its own mean."""

    def __init__(self) -> None:
        self._read: float | None = None
        self._append: float | None = None

    def read(self, size: int, seconds: float) -> None:
        """Note that reading and checking `size` bytes took so long."""
        self._read = _mean(self._read, size / max(seconds, 1e-9))

    def append(self, size: int, seconds: float) -> None:
        """Note that the engine took `size` bytes back in so long."""
        self._append = _mean(self._append, size / max(seconds, 1e-9))

    def restore_s(self, size: int, *, from_ssd: bool) -> float:
        """Expected seconds until `size` bytes are in the cells; 0 for what was never seen, so that it is tried."""
        seconds = size / self._append if self._append else 0.0
        return seconds + (size / self._read if from_ssd and self._read else 0.0)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
