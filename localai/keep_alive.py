"""How long an idle model should stay loaded, and when to load it before it is asked for, learned from the user's use.

Times of use enter, seconds leave. Pure: knows neither engines nor clocks.

Staying loaded is rent, loading again is a price: the best time to give up is the one that would have cost least over
the gaps seen so far (the ski-rental problem with a known distribution).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field

_DAY = 86_400.0
_SLOT = 900.0
"""Seconds of the day that count as the same time of day."""
_DAYS = 14
_HABIT = 0.5
"""Share of the days with any use on which a time of day was the first one, from which on it is a habit."""
_SESSION = 4 * 3600.0
"""A use after so long without one begins a new stretch of work."""
_GAPS = 512
_LEAST = 12
"""Gaps before which too little is known to leave the fixed time."""


@dataclass(frozen=True, slots=True)
class Price:
    """`rent` is how many seconds of waiting for a load are worth a second of a loaded, idle model; `most` bounds it."""

    rent: float = 1 / 60
    least: float = 10.0
    most: float = 3600.0


@dataclass(slots=True)
class Habits:
    """Of one model. `load_s` is what loading it takes; times are Unix seconds, ascending."""

    load_s: float
    fixed: float = 300.0
    price: Price = Price()
    _last: float | None = None
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_GAPS))
    _sorted: list[float] = field(default_factory=list)
    _starts: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=4 * _DAYS))

    def note(self, begin: float, end: float) -> None:
        """A use of the model from `begin` to `end`."""
        if self._last is None or begin - self._last > _SESSION:
            self._starts.append((int(begin // _DAY), int(begin % _DAY // _SLOT)))
        if self._last is not None and begin > self._last:
            if len(self._gaps) == _GAPS:
                self._sorted.remove(self._gaps[0])
            self._gaps.append(begin - self._last)
            insort(self._sorted, begin - self._last)
        self._last = max(end, self._last or end)

    def keep_alive(self) -> float:
        """Seconds to stay loaded after a use; the fixed ones while little is known."""
        if len(self._sorted) < _LEAST:
            return self.fixed
        price, best, cheapest = self.price, self.fixed, float("inf")
        below, count = 0.0, len(self._sorted)
        # Only just behind a gap is giving up later worth anything.
        for place, gap in enumerate([0.0, *self._sorted]):
            below += gap
            stay = min(price.most, max(price.least, gap + 1.0))
            cost = price.rent * (below + (count - place) * stay) + (count - place) * self.load_s
            if cost < cheapest:
                best, cheapest = stay, cost
        return best

    def warm_at(self, now: float) -> float | None:
        """When to load ahead of the next habitual first use of a day; None where there is no habit."""
        today = int(now // _DAY)
        recent = [(day, slot) for day, slot in self._starts if today - day <= _DAYS]
        days = len({day for day, _ in recent})
        if days < 3:
            return None
        slots = {slot for _, slot in recent}
        habits = [slot for slot in slots if len({d for d, s in recent if abs(s - slot) <= 1}) >= _HABIT * days]
        ahead = [today * _DAY + day * _DAY + slot * _SLOT - _SLOT for day in (0, 1) for slot in habits]
        return min((at for at in ahead if at > now), default=None)
