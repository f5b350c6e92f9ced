"""How many threads the next step should use, learned while running. Knows steps' costs only, not what they compute.

Two threads that wait for each other on two cores lose most of their speed as soon as a neighbour takes a core, because
each step is as slow as its slowest thread. So the count is lowered when steps take much longer than the best seen, kept
only if that proves faster, and raised again by short trials whose spacing grows while they fail.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from backends.costs import StepCosts

_SLOW = 1.5
"""A step this many times the best cost seen for its size counts as slow."""
_SLOW_STEPS = 3
_TRIAL_STEPS = 4
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 16.0
_ROOM = 0.5
"""Idle cores per added thread that make a trial worth its cost."""
_DRIFT = 1.002
"""Growth per step of the best cost seen, so that a deeper context does not look like a neighbour for long."""


class IdleCores:
    """How many cores of the machine had nothing to do since the last look; None where the system does not say."""

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
        except (OSError, ValueError):
            return None
        return fields[3] + fields[4], sum(fields)


class ThreadGovernor:
    """Chooses among `counts` (ascending). `threads` is the choice; `after_step` may change it.

    `idle` tells how many cores stood idle lately: raising the count is only tried where there is room for it.
    """

    def __init__(self, counts: tuple[int, ...], idle: Callable[[], float | None] | None = None) -> None:
        self.counts = counts
        self._idle = idle or IdleCores()
        self.threads = counts[-1]
        self.costs = {n: StepCosts() for n in counts}
        self.changes = 0
        self._best: dict[int, float] = {}
        self._recent: dict[tuple[int, int], float] = {}
        self._slow = 0
        self._trial: tuple[int, int] | None = None
        self._wait = _FIRST_WAIT
        self._next_raise = time.monotonic() + _FIRST_WAIT

    @property
    def current(self) -> StepCosts:
        return self.costs[self.threads]

    def after_step(self, tokens: int, seconds: float, now: float) -> int | None:
        """Take a step's reading; return the thread count to set, or None to stay. `now` is monotonic seconds."""
        self.current.add(tokens, seconds)
        bucket = tokens.bit_length()
        key = (self.threads, bucket)
        self._recent[key] = 0.5 * (self._recent.get(key, seconds) + seconds)
        if len(self.counts) == 1:
            return None
        best = min(seconds, self._best.get(bucket, seconds) * _DRIFT)
        self._best[bucket] = best
        self._slow = self._slow + 1 if seconds > _SLOW * best else 0
        if self._trial is not None:
            return self._judge(bucket, now)
        if self._slow >= _SLOW_STEPS and self.threads > self.counts[0]:
            return self._try(self._neighbour(-1))
        if self.threads < self.counts[-1] and now >= self._next_raise:
            self._next_raise = now + _FIRST_WAIT
            if self._room_for(self._neighbour(+1)):
                return self._try(self._neighbour(+1))
        return None

    def _room_for(self, count: int) -> bool:
        free = self._idle()
        return free is None or free >= _ROOM * (count - self.threads)

    def _neighbour(self, direction: int) -> int:
        return self.counts[self.counts.index(self.threads) + direction]

    def _try(self, count: int) -> int:
        self._trial = (self.threads, _TRIAL_STEPS)
        for key in [k for k in self._recent if k[0] == count]:
            del self._recent[key]
        self.threads = count
        self.changes += 1
        return count

    def _judge(self, bucket: int, now: float) -> int | None:
        assert self._trial is not None
        before, left = self._trial
        old, new = self._recent.get((before, bucket)), self._recent[(self.threads, bucket)]
        # A bad trial is cut short: beside a neighbour one step with too many threads can cost as much as fifty.
        hopeless = old is not None and new > _SLOW * old
        if left > 1 and not hopeless:
            self._trial = (before, left - 1)
            return None
        self._trial = None
        self._slow = 0
        won = old is None or new < 0.95 * old
        raised = self.threads > before
        self._wait = _FIRST_WAIT if won else min(2 * self._wait, _LONGEST_WAIT) if raised else self._wait
        self._next_raise = now + self._wait
        if won:
            return None
        self.threads = before
        self.changes += 1
        return before
