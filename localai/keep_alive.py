"""How long an idle model stays loaded, and when it is loaded ahead of its use: learned from the pauses between uses.

Times of use enter, seconds leave. Pure: knows neither engines nor clocks.

After a use, staying loaded costs rent for every second, and a use that finds the model unloaded costs its load. Both
are expected values under the rate at which pauses of that age ended so far (a life table, as in survival analysis), so
each stretch of a pause is worth staying loaded for, or it is not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_Vector = NDArray[np.float64]

RENT = 1 / 60
"""Seconds of waiting for a load that a second of a loaded, idle model is worth."""
_MOST = 512
"""Pauses that are remembered."""
_FADE = 0.98
"""What a pause counts for after each further one, down to _OLD: habits change."""
_OLD = 0.25
_HOURS = 2.0
"""Hours of the day within which pauses began alike; others count for _APART."""
_APART = 0.15
_DOUBT = 1.0
"""Pauses that the usual time counts for, until there is more to go by."""
_EDGES: _Vector = np.concatenate([[0.0], 5.0 * 1.1 ** np.arange(0, 105)])
_WIDTHS: _Vector = np.diff(_EDGES)
_AHEAD = 0.5
"""Of a load's seconds, what loading ahead costs besides: work that may be for nothing."""


@dataclass(frozen=True, slots=True)
class Stay:
    """After a use: stay loaded for `seconds`; then, where `warm_from` is not None, be loaded again from there to
    `warm_to`, in seconds after that use."""

    seconds: float
    warm_from: float | None = None
    warm_to: float = 0.0


@dataclass(slots=True)
class Habits:
    """Of one model. `usual` seconds are what nothing is known against; times are Unix seconds, ascending."""

    usual: float = 300.0
    rent: float = RENT
    _last: float | None = None
    _pauses: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST))

    def note(self, begin: float, end: float) -> None:
        """A use of the model from `begin` to `end`."""
        if self._last is not None and begin > self._last:
            self._pauses.append((self._last / 3600.0 % 24.0, begin - self._last))
        self._last = max(end, self._last or end)

    def stay(self, load_s: float) -> Stay:
        """What to do after the last use, where loading takes `load_s` seconds."""
        if not self._pauses or self._last is None:
            return Stay(self.usual)
        rates = self._rates(load_s)
        ends = -np.expm1(-rates * _WIDTHS)
        lasts = np.concatenate([[1.0], np.cumprod(1.0 - ends)])[:-1]
        gain = lasts * (ends * load_s - self.rent * _WIDTHS * (1.0 - ends / 2))
        total = np.concatenate([[0.0], np.cumsum(gain)])
        kept = int(np.argmax(total))
        first, last, best = self._window(total, lasts, kept, load_s)
        seconds = float(_EDGES[kept])
        if best <= 0:
            return Stay(seconds)
        return Stay(seconds, max(seconds, float(_EDGES[first]) - load_s), float(_EDGES[last]))

    def _rates(self, load_s: float) -> _Vector:
        """Per second, at which pauses as old as each bin end, at this time of the day."""
        hours, lengths = np.array(self._pauses, np.float64).T
        now = (self._last or 0.0) / 3600.0 % 24.0
        apart = np.abs(hours - now)
        near = np.minimum(apart, 24.0 - apart) <= _HOURS
        ages = np.arange(len(lengths))[::-1]
        weights = np.where(near, 1.0, _APART) * np.maximum(_FADE**ages, _OLD)
        spent = np.clip(lengths[:, None] - _EDGES[:-1], 0.0, _WIDTHS)
        ended = (lengths[:, None] > _EDGES[:-1]) & (lengths[:, None] <= _EDGES[1:])
        # At the rate where staying is worth as much as leaving, nothing speaks for either.
        even = self.rent / load_s
        usual = np.where(_EDGES[:-1] < self.usual, 2.0, 0.5) * even
        exposed = weights @ spent + _DOUBT * _WIDTHS
        found: _Vector = (weights @ ended + _DOUBT * usual * _WIDTHS) / exposed
        return found

    def _window(self, total: _Vector, lasts: _Vector, kept: int, load_s: float) -> tuple[int, int, float]:
        """The later stretch that is most worth being loaded for, and how much it is worth; 0 where none is."""
        best = (kept, kept, 0.0)
        for first in range(kept + 1, len(lasts)):
            last = first + int(np.argmax(total[first:]))
            worth = float(total[last] - total[first] - _AHEAD * load_s * lasts[first])
            if worth > best[2]:
                best = first, last, worth
        return best
