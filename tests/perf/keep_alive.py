"""Keep-alive learned from use against fixed times, replayed on made-up weeks: seconds waited, hours of idle memory.

    python -m tests.perf.keep_alive [--days 28] [--seeds 5] [--load 8]

A cost adds both, a second of a loaded, idle model being a sixtieth of a second of waiting, and half of each load ahead.
The best fixed time is the best in hindsight for that trace, of a list; no rule can know it beforehand. The bound knows
when each pause will end, but does not load ahead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from localai.keep_alive import AHEAD, MOST, RENT, Pause, Stay, stay
from tests.perf.use_traces import TRACES, Trace, trace

_FIXED = (60.0, 150.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0)
_USE_S = 4.0
"""Seconds that an answer takes."""


@dataclass(slots=True)
class Cost:
    """Seconds waited for loads, loaded and idle, and of loading ahead."""

    waited: float
    idle: float = 0.0
    ahead: float = 0.0

    @property
    def total(self) -> float:
        return self.waited + RENT * self.idle + AHEAD * self.ahead

    def add(self, pause: float, chosen: Stay, load_s: float) -> None:
        """A pause, after which the model was used again."""
        self.idle += min(pause, chosen.seconds)
        if pause <= chosen.seconds:
            return
        if chosen.warm_from is None or pause <= chosen.warm_from:
            self.waited += load_s
            return
        self.ahead += load_s
        self.idle += min(pause, chosen.warm_to) - chosen.warm_from
        # Who comes while it loads waits for the rest.
        self.waited += max(0.0, load_s - (pause - chosen.warm_from)) if pause <= chosen.warm_to else load_s


def pauses_of(times: Trace) -> list[Pause]:
    """Between the uses at `times`; what comes during a use is answered after it."""
    found, free = [], times[0] + _USE_S
    for at in times[1:]:
        if at > free:
            found.append(Pause(free, at - free))
        free = max(at, free) + _USE_S
    return found


def replay(pauses: list[Pause], load_s: float, choose: Callable[[int], Stay]) -> Cost:
    """`choose` is asked after each use, with the number of pauses so far."""
    cost = Cost(load_s)
    for number, pause in enumerate(pauses):
        cost.add(pause.seconds, choose(number), load_s)
    return cost


def fixed(pauses: list[Pause], load_s: float, seconds: float) -> Cost:
    return replay(pauses, load_s, lambda _: Stay(seconds))


def learned(pauses: list[Pause], load_s: float) -> Cost:
    return replay(pauses, load_s, lambda n: stay(pauses[max(0, n - MOST) : n], pauses[n].begin, load_s))


def bound(pauses: list[Pause], load_s: float) -> float:
    return load_s + sum(min(load_s, RENT * pause.seconds) for pause in pauses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--load", type=float, default=8.0, help="seconds that a load takes")
    given = parser.parse_args()
    heads = ("5 min", "30 min", "learned")
    print(f"{'trace':9}" + "".join(f"{head:>25}" for head in heads) + "   best fixed  bound   learned / 5, 30, best")
    for name in TRACES:
        runs = [pauses_of(trace(name, seed, given.days)) for seed in range(given.seeds)]
        shown = [[fixed(run, given.load, seconds) for run in runs] for seconds in (300.0, 1800.0)]
        shown.append([learned(run, given.load) for run in runs])
        cells = [
            f"{median(c.waited for c in costs):7.0f} s {median(c.idle for c in costs) / 3600:6.1f} h "
            f"{median(c.total for c in costs):6.0f}"
            for costs in shown
        ]
        five, thirty, own = (median(c.total for c in costs) for costs in shown)
        best, at = min((median(fixed(run, given.load, s).total for run in runs), s) for s in _FIXED)
        least = median(bound(run, given.load) for run in runs)
        ratios = f"{own / five:.2f} {own / thirty:.2f} {own / best:.2f}"
        print(
            f"{name:9}" + "".join(f"{cell:>25}" for cell in cells) + f" {best:6.0f} ({at:4.0f}) {least:6.0f}   {ratios}"
        )


if __name__ == "__main__":
    main()
