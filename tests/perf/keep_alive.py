"""Keep-alive learned from use against fixed times, replayed: seconds waited for loads, hours of idle memory.

    python -m tests.perf.keep_alive [--days 28] [--load 8]

The traces are drawn from rules of their own: bursts of questions, office days with breaks, a job every 20 minutes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator

from localai.keep_alive import Habits, Price

Trace = list[float]
_DAY = 86_400.0
_WARM_S = 1800.0


def bursts(rng: random.Random, days: int) -> Iterator[float]:
    """A few questions at a time, some times a day."""
    for day in range(days):
        for hour in sorted(rng.uniform(8, 22) for _ in range(rng.randint(1, 4))):
            at = day * _DAY + hour * 3600
            for _ in range(rng.randint(2, 9)):
                yield at
                at += rng.expovariate(1 / 60)


def office(rng: random.Random, days: int) -> Iterator[float]:
    """Five days a week from nine on, a question every eight minutes, with a lunch break."""
    for day in range(days):
        if day % 7 < 5:
            at = day * _DAY + 9 * 3600 + rng.gauss(0, 240)
            while at < day * _DAY + 17 * 3600:
                yield at
                at += rng.expovariate(1 / 480)
                if 12.0 <= at % _DAY / 3600 < 12.9:
                    at = day * _DAY + 13 * 3600


def job(rng: random.Random, days: int) -> Iterator[float]:
    """A script that asks one question every 20 minutes."""
    at = 0.0
    while at < days * _DAY:
        yield at
        at += 1200 + rng.gauss(0, 10)


TRACES: dict[str, Callable[[random.Random, int], Iterator[float]]] = {"bursts": bursts, "office": office, "job": job}


def replay(trace: Trace, load_s: float, fixed: float | None) -> tuple[float, float]:
    """Seconds waited for loads, and seconds loaded and idle; `fixed` None asks what was learned so far."""
    habits = Habits(load_s)
    waited = idle = 0.0
    until = -1.0
    for before, at in zip([None, *trace], trace, strict=False):
        if before is not None:
            stays = fixed if fixed is not None else habits.keep_alive()
            until = before + stays
            idle += min(stays, at - before)
            warm = habits.warm_at(before) if fixed is None else None
            if warm is not None and until < warm < at:
                until = warm + _WARM_S
                idle += min(_WARM_S, at - warm)
        if at > until:
            waited += load_s
        habits.note(at, at)
    return waited, idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--load", type=float, default=8.0, help="seconds that a load takes")
    given = parser.parse_args()
    rent = Price().rent
    for name, make in TRACES.items():
        trace = sorted(make(random.Random(1), given.days))
        print(f"{name}: {len(trace)} uses in {given.days} days")
        for fixed in (60.0, 300.0, 1800.0, None):
            waited, idle = replay(trace, given.load, fixed)
            label = "learned" if fixed is None else f"{fixed:.0f} s"
            cost = waited + rent * idle
            print(f"  {label:>8}: waited {waited:6.0f} s, idle {idle / 3600:6.1f} h, cost {cost:6.0f}")


if __name__ == "__main__":
    main()
