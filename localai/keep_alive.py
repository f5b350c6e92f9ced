"""How long an idle model stays loaded, and when it is loaded ahead of its use: learned from the pauses between uses.

Pauses enter, seconds leave. Pure: knows neither engines nor clocks.

After a use, staying loaded costs rent for every second, and a use that finds the model unloaded costs its load. Both
are expected values under the rate at which pauses of that age ended so far (a life table, as in survival analysis), so
each stretch of a pause is worth staying loaded for, or it is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import exp

RENT = 1 / 60
"""Seconds of waiting for a load that a second of a loaded, idle model is worth, where it takes half of the memory."""
AHEAD = 0.5
"""Of a load's seconds, what loading ahead costs: work that may be for nothing."""
MOST = 512
"""Pauses of a model that are worth remembering."""
_USUAL_S = 300.0
"""What nothing is known against."""
_LEAST_S = 30.0
"""A question often follows on an answer, even where it did not so far."""
_FADE = 0.98
"""What a pause counts for after each further one, down to _OLD: habits change."""
_OLD = 0.25
_HOURS = 2.0
"""Hours of the day within which pauses began alike; others count for _APART."""
_APART = 0.15
_DOUBT = 1.0
"""Pauses that the usual time counts for, until there is more to go by."""
_EDGES = [0.0, *(5.0 * 1.1**number for number in range(105))]
_WIDTHS = [high - low for low, high in pairwise(_EDGES)]


@dataclass(frozen=True, slots=True)
class Pause:
    """From Unix time `begin`, the end of a use, for `seconds` to the beginning of the next."""

    begin: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Stay:
    """After a use: stay loaded for `seconds`, in which the pause ends with probability `likely`.

    Then, where `warm_from` is not None, be loaded again from there to `warm_to`, in seconds after that use; the pause
    ends in that time with probability `warm_likely`.
    """

    seconds: float
    likely: float | None = None
    warm_from: float | None = None
    warm_to: float = 0.0
    warm_likely: float = 0.0


def stay(pauses: Sequence[Pause], now: float, load_s: float, rent: float = RENT) -> Stay:
    """What to do after a use that ends `now`, where loading takes `load_s` seconds; `pauses` in their order."""
    if not pauses or load_s <= 0:
        return Stay(_USUAL_S)
    ends = [1 - exp(-rate * width) for rate, width in zip(_rates(pauses, now, rent / load_s), _WIDTHS, strict=True)]
    lasts = [1.0, *accumulate((1 - end for end in ends), lambda left, share: left * share)]
    gains = [
        left * (end * load_s - rent * width * (1 - end / 2))
        for left, end, width in zip(lasts, ends, _WIDTHS, strict=False)
    ]
    total = [0.0, *accumulate(gains)]
    kept, window = _best(total, lasts, load_s, rent)
    seconds = max(_LEAST_S, _EDGES[kept])
    likely = 1 - lasts[kept]
    if window is None:
        return Stay(seconds, likely)
    first, last = window
    return Stay(seconds, likely, max(seconds, _EDGES[first] - load_s), _EDGES[last], lasts[first] - lasts[last])


def _rates(pauses: Sequence[Pause], now: float, even: float) -> list[float]:
    """Per second, at which pauses as old as each bin end, at this time of the day.

    At the rate `even`, staying is worth as much as leaving, and nothing speaks for either.
    """
    ended, passed, within = ([0.0] * (len(_WIDTHS) + 1) for _ in range(3))
    for age, pause in enumerate(reversed(pauses)):
        apart = abs(pause.begin - now) / 3600.0 % 24.0
        weight = (1.0 if min(apart, 24.0 - apart) <= _HOURS else _APART) * max(_FADE**age, _OLD)
        place = max(0, bisect_left(_EDGES, pause.seconds) - 1)
        if place < len(_WIDTHS):
            ended[place] += weight
            within[place] += weight * (pause.seconds - _EDGES[place])
        passed[place] += weight
    # Who gets past a bin was there for all of it.
    beyond = [*accumulate(reversed(passed))][::-1][1:]
    return [
        (ended[i] + _DOUBT * even * (2.0 if _EDGES[i] < _USUAL_S else 0.5) * width)
        / (beyond[i] * width + within[i] + _DOUBT * width)
        for i, width in enumerate(_WIDTHS)
    ]


def _best(
    total: Sequence[float], lasts: Sequence[float], load_s: float, rent: float
) -> tuple[int, tuple[int, int] | None]:
    """Up to which bin to stay, and the later bins, if any, for which to be loaded again: the two together are best."""
    best, kept, window = max(total), total.index(max(total)), None
    later, worth, last = None, 0.0, len(total) - 1
    for first in range(len(total) - 2, -1, -1):
        if later is not None and total[first] + worth > best:
            best, kept, window = total[first] + worth, first, later
        last = first if total[first] >= total[last] else last
        found = total[last] - total[first] - (AHEAD + rent) * load_s * lasts[first]
        if last > first and found > worth:
            worth, later = found, (first, last)
    return kept, window
