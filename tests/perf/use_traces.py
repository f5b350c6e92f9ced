"""Made-up weeks of one person's use of a model, for judging how long it should stay loaded: a seed in, times out.

Each trace is times of requests in Unix seconds, ascending. Knows of no rule that is to be judged, and shares no number
with one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

Trace = list[float]
_DAY, _HOUR = 86_400.0, 3600.0


def _chat(rng: random.Random, at: float, turns: int, think_s: float) -> Iterator[float]:
    """Questions of one sitting; people read, think and type for times that vary a lot."""
    for _ in range(turns):
        yield at
        at += rng.lognormvariate(math.log(think_s), 0.9)


def evenings(rng: random.Random, days: int) -> Iterator[float]:
    """A few sittings a day, mostly in the evening, now and then none."""
    for day in range(days):
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            hour = rng.triangular(7, 24, 20)
            yield from _chat(rng, day * _DAY + hour * _HOUR, rng.randint(1, 14), 70)


def office(rng: random.Random, days: int) -> Iterator[float]:
    """Working days: an assistant at hand from about nine to half past five, meetings and lunch left out."""
    for day in range(days):
        if day % 7 >= 5:
            continue
        at, end = day * _DAY + rng.gauss(9.1, 0.2) * _HOUR, day * _DAY + rng.gauss(17.5, 0.5) * _HOUR
        while at < end:
            sitting = list(_chat(rng, at, rng.randint(1, 6), 95))
            yield from sitting
            at = sitting[-1] + rng.expovariate(1 / (24 * 60))


def timer(rng: random.Random, days: int) -> Iterator[float]:
    """A script that sums up new mail every 25 minutes, day and night."""
    at = 400.0
    while at < days * _DAY:
        yield at
        at += 25 * 60 + rng.uniform(-8, 8)


def agent(rng: random.Random, days: int) -> Iterator[float]:
    """Coding runs of many quick calls with pauses for tests, at any time of the day."""
    for day in range(days):
        for _ in range(rng.randint(0, 4)):
            at = day * _DAY + rng.uniform(8, 23) * _HOUR
            for _ in range(rng.randint(10, 60)):
                yield at
                at += rng.choice((3, 6, 12, rng.uniform(60, 260)))


def rare(rng: random.Random, days: int) -> Iterator[float]:
    """One question every day or two, at no particular time."""
    at = rng.uniform(0, _DAY)
    while at < days * _DAY:
        yield at
        at += rng.expovariate(1 / (1.5 * _DAY))


def moved(rng: random.Random, days: int) -> Iterator[float]:
    """Office days that become evenings half way: habits change."""
    half = days // 2
    yield from office(rng, half)
    yield from (half * _DAY + at for at in evenings(rng, days - half))


TRACES: dict[str, Callable[[random.Random, int], Iterator[float]]] = {
    "evenings": evenings,
    "office": office,
    "timer": timer,
    "agent": agent,
    "rare": rare,
    "moved": moved,
}


def trace(name: str, seed: int, days: int) -> Trace:
    """`days` of use, as TRACES names it."""
    return sorted(TRACES[name](random.Random(seed), days))
