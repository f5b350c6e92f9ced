"""Keep-alive learned from use against fixed times, replayed on made-up weeks: seconds waited, hours of idle memory.

    python -m tests.perf.keep_alive [--days 28] [--seeds 5] [--load 8]

A cost adds both: a second of a loaded, idle model counts for a sixtieth of a second of waiting.
"""

from __future__ import annotations

import argparse
from statistics import median

from localai.keep_alive import RENT, Habits, Stay
from tests.perf.use_traces import TRACES, Trace, trace

_FIXED = (300.0, 1800.0)
_USE_S = 4.0
"""Seconds that an answer takes."""


def replay(times: Trace, load_s: float, fixed: float | None) -> tuple[float, float]:
    """Seconds waited for loads, and seconds loaded and idle; `fixed` None decides by what was learned so far."""
    habits = Habits()
    waited = idle = free = 0.0
    stay: Stay | None = None
    for at in times:
        begin = max(at, free)
        pause = begin - free
        if stay is None:
            waited += load_s
        else:
            warm = 0.0
            if stay.warm_from is not None:
                warm = max(0.0, min(pause, stay.warm_to) - stay.warm_from)
            loaded = pause <= stay.seconds or (warm > load_s and pause <= stay.warm_to)
            idle += min(pause, stay.seconds) + warm
            waited += 0.0 if loaded else load_s
        free = begin + _USE_S
        habits.note(begin, free)
        stay = habits.stay(load_s) if fixed is None else Stay(fixed)
    return waited, idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--load", type=float, default=8.0, help="seconds that a load takes")
    given = parser.parse_args()
    print(f"{'trace':10}" + "".join(f"{name:>26}" for name in ("5 min", "30 min", "learned")) + f"{'learned/best':>14}")
    for name in TRACES:
        costs: dict[float | None, float] = {}
        cells = []
        for fixed in (*_FIXED, None):
            runs = [replay(trace(name, seed, given.days), given.load, fixed) for seed in range(given.seeds)]
            waited, idle = (median(run[i] for run in runs) for i in (0, 1))
            costs[fixed] = median(run[0] + RENT * run[1] for run in runs)
            cells.append(f"{waited:7.0f} s {idle / 3600:6.1f} h {costs[fixed]:7.0f}")
        best = min(costs[fixed] for fixed in _FIXED)
        print(f"{name:10}" + "".join(f"{cell:>26}" for cell in cells) + f"{costs[None] / best:14.2f}")


if __name__ == "__main__":
    main()
