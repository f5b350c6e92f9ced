"""How many threads the next step should use, learned while running. Knows steps' costs only, not what they compute.

Two threads that wait for each other on two cores lose most of their speed as soon as a neighbour takes a core, because
each step is as slow as its slowest thread. So the count is lowered when steps take much longer than the best seen, kept
only if that proves faster, and raised again by short trials whose spacing grows while they fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from backends.costs import StepCosts

Direction = Literal[-1, 1]

_SLOW = 1.5
"""A step this many times the best cost seen for its size counts as slow."""
_SLOW_STEPS = 3
_TRIAL_STEPS = 4
_ROOM = 0.5
"""Idle cores per added thread that make a trial worth its cost."""
_HOPELESS = 2.0
"""A trial that takes this many times what it is compared with ends at once."""
_LOOK = 1.0
"""Seconds between looks at the idle cores: a shorter reading of them says little."""
_FIRST_WAIT = 1.0
_LONGEST_WAIT: dict[Direction, float] = {-1: 2.0, 1: 16.0}
"""Trying fewer threads costs little and saves much, so it never has to wait for long."""
_REST = 20.0
"""Seconds without trials per second that a failed one has lost: trials cost 5 % at most."""


@dataclass(slots=True)
class _Trial:
    """Steps with another count than `before`: seconds that they took, and would have taken with `before`."""

    before: int
    direction: Direction
    left: int = _TRIAL_STEPS
    took: float = 0.0
    expected: float = 0.0


class ThreadGovernor:
    """Chooses among `counts` (ascending). `threads` is the choice; `after_step` may change it.

    `idle` tells how many cores stood idle lately, None if unknown: more threads are only tried where there is room.
    """

    def __init__(self, counts: tuple[int, ...], idle: Callable[[], float | None] = lambda: None) -> None:
        self.counts = counts
        self._idle = idle
        self.threads = counts[-1]
        self.costs = {n: StepCosts() for n in counts}
        self.changes = 0
        self._best = StepCosts()
        self._slow = 0
        self._trial: _Trial | None = None
        self._wait: dict[Direction, float] = {-1: _FIRST_WAIT, 1: _FIRST_WAIT}
        self._next: dict[Direction, float] = {-1: 0.0, 1: 0.0}
        self._look = 0.0

    @property
    def current(self) -> StepCosts:
        return self.costs[self.threads]

    def learn(self, threads: int, tokens: int, seconds: float, depth: int = 0, reach: int = 0) -> None:
        """Take a reading; `depth` as in `StepCosts`, `reach` the tokens that each token of the step attends to."""
        self.costs[threads].add(tokens, seconds, depth)
        self._best.add_best(tokens, seconds, reach)

    def after_step(self, tokens: int, seconds: float, now: float, depth: int = 0, reach: int = 0) -> int | None:
        """Take a step's reading; return the thread count to set, or None to stay. `now` is monotonic seconds."""
        best = self._best.credible(tokens, reach)
        self.learn(self.threads, tokens, seconds, depth, reach)
        if len(self.counts) == 1:
            return None
        self._slow = self._slow + 1 if best is not None and seconds > _SLOW * best else 0
        if self._trial is not None:
            return self._judge(
                self._trial, self.costs[self._trial.before].estimate(tokens, depth) or seconds, seconds, now
            )
        if self._slow >= _SLOW_STEPS and self.threads > self.counts[0] and now >= self._next[-1]:
            return self._try(-1)
        if self.threads < self.counts[-1] and now >= self._look:
            self._look = now + _LOOK
            if not self._room_for_more():
                # Failures so far were beside this neighbour: once it has left they say nothing.
                self._wait[1], self._next[1] = _FIRST_WAIT, now
            elif now >= self._next[1]:
                return self._try(1)
        return None

    def _room_for_more(self) -> bool:
        more = self.counts[self.counts.index(self.threads) + 1] - self.threads
        free = self._idle()
        return free is None or free >= _ROOM * more

    def _try(self, direction: Direction) -> int:
        count = self.counts[self.counts.index(self.threads) + direction]
        if direction == 1:
            # What it cost beside a neighbour would keep the trial's steps too small to tell anything.
            self.costs[count] = self.current.copy()
        return self._change(count, _Trial(self.threads, direction))

    def _change(self, count: int, trial: _Trial | None) -> int:
        self._trial = trial
        self._slow = 0
        self.threads = count
        self.changes += 1
        return count

    def _judge(self, trial: _Trial, expected: float, seconds: float, now: float) -> int | None:
        trial.left -= 1
        trial.took += seconds
        trial.expected += expected
        if trial.left and trial.took < _HOPELESS * trial.expected:
            return None
        direction = trial.direction
        if trial.took < 0.95 * trial.expected:
            self._trial = None
            self._slow = 0
            self._wait[direction] = _FIRST_WAIT
            self._next[1] = now + self._wait[1]
            return None
        self._next[direction] = now + max(self._wait[direction], _REST * (trial.took - trial.expected))
        self._wait[direction] = min(2 * self._wait[direction], _LONGEST_WAIT[direction])
        return self._change(trial.before, None)
