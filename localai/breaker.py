"""Rests an engine that keeps dying: three deaths within a minute stop it for a minute. Pure but for the clock."""

from __future__ import annotations

from collections import deque

from localai.errors import Unavailable

WINDOW_S = 60.0
REST_S = 60.0
DEATHS = 3


class Breaker:
    """One per model and backend. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._open_until = 0.0

    def note_death(self, now: float) -> None:
        """Count a death; the third within the window opens the breaker."""
        self._deaths.append(now)
        if len(self._deaths) == DEATHS and now - self._deaths[0] <= WINDOW_S:
            self._open_until = now + REST_S
            self._deaths.clear()

    def is_open(self, now: float) -> bool:
        return now < self._open_until

    def left(self, now: float) -> float:
        """Seconds until it closes; 0 where it is closed."""
        return max(0.0, self._open_until - now)

    def check(self, now: float) -> None:
        """Raises Unavailable, with the seconds to wait, while the breaker is open."""
        if self.is_open(now):
            error = Unavailable(
                f"the engine died {DEATHS} times within {WINDOW_S:.0f} seconds and rests",
                "`localai logs` tells why; the next request after the pause starts it again",
            )
            error.retry_after = max(1, round(self._open_until - now))
            raise error
