"""One sensor's joules among the jobs of the engine steps: a curve and step records in, accounts out. Pure.

What a piece of time took beyond the idle baseline goes to the steps in it, by seconds and intensity, and within a step
by work. Sum of the accounts' joules + idle + unattributed = joules that the curve rose by, exactly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from localai.energy.baseline import Baseline
from localai.energy.curve import Curve
from localai.energy.sensor import Spec
from localai.energy.shares import Part

MOST_STEPS = 20_000
"""Steps kept until they are booked; where more come, the oldest count as not covered."""
STANDSTILL = 20
"""Periods of work without a change after which a sensor is taken for dead."""
SETTLING = 3
"""Periods after work in which a sensor may still tell of it."""
_FREE_SHARE = 0.1
"""Uncertainty of how a piece of time divides among jobs, relative, for what a job got beside others."""
_FADES_S = 4.0
"""Seconds after which what effort took counts a third as much."""


@dataclass(frozen=True, slots=True)
class Step:
    """An engine step: monotonic seconds, CPU or wall seconds of effort, and whose it was."""

    t0: float
    t1: float
    effort: float
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Account:
    """What one job has got of one sensor. Joules; seconds of steps that it took part in."""

    prefill: float = 0.0
    decode: float = 0.0
    idle: float = 0.0
    seconds: float = 0.0
    covered: float = 0.0
    weighted_s: float = 0.0
    extended: float = 0.0
    shared: float = 0.0
    fault: str = ""

    @property
    def joules(self) -> float:
        return self.prefill + self.decode


@dataclass(slots=True)
class Book:
    """One sensor's ledger. Times must not go backwards: `book` what is known, then go on."""

    curve: Curve
    baseline: Baseline
    accounts: dict[int, Account] = field(default_factory=dict)
    idle: float = 0.0
    unattributed: float = 0.0
    attributed: float = 0.0
    risen: float = 0.0
    fault: str = ""
    lost_steps: int = 0
    _steps: deque[Step] = field(default_factory=deque)
    _until: float = -math.inf
    _mark: float = 0.0
    _busy_from: float = -math.inf
    _unmoved_s: float = 0.0
    _idle_due: float = 0.0
    _worked_until: float = -math.inf
    _owed: float = 0.0
    _works: float = 0.0
    _efforts: float = 0.0
    _spread: float = 0.1

    @property
    def spec(self) -> Spec:
        return self.curve.spec

    @property
    def leftover(self) -> float:
        """Joules that are nobody's: seen while jobs ran but none was in a step, or booked ahead and not come yet."""
        return self.unattributed - self._owed

    # -- what comes in

    def open(self, job: int, now: float) -> None:
        """Expect steps of this job."""
        if not self.accounts:
            self._busy_from = now
        self.accounts[job] = Account(fault=self.fault)

    def step(self, step: Step) -> None:
        """Note a step that has ended."""
        for part in step.parts:
            account = self.accounts.get(part.job)
            if account is not None:
                account.seconds += step.t1 - step.t0
                account.weighted_s += part.share * (step.t1 - step.t0)
        self._unmoved_s += step.t1 - step.t0
        if len(self._steps) >= MOST_STEPS:
            self._steps.popleft()
            self.lost_steps += 1
        self._steps.append(step)

    def reading(self, before: float, after: float, joules: float) -> bool:
        """Note a reading of the sensor; True where there is more to book. Standing still while steps run is a fault."""
        self.fault = ""
        last = self.curve.joules[-1] if self.curve.joules else None
        if last != joules:
            self._unmoved_s = 0.0
        elif self.spec.scope != "processes" and self._unmoved_s > max(1.0, STANDSTILL * self.spec.period_s):
            self.broken(f"{self.spec.id} does not move")
            return False
        new = self.curve.add(before, after, joules)
        if self._until == -math.inf and self.curve.first is not None:
            self._until, self._mark = self.curve.first, self.curve.joules[0]
        return new

    def broken(self, reason: str) -> None:
        """The sensor gave no reading: what runs now stays without figures, and the next reading begins anew."""
        self.fault = reason
        for account in self.accounts.values():
            account.fault = account.fault or reason
        self.restart()

    def restart(self) -> None:
        """Begin anew at the next reading; what happens until then is in no sum."""
        self._steps.clear()
        self.curve.restart()
        self._settle()
        self._until, self._unmoved_s = -math.inf, 0.0

    def _settle(self) -> None:
        """What was booked ahead of readings that will not come was never seen: it is nobody's, with its sign."""
        self.unattributed -= self._owed
        self._owed = 0.0

    # -- what goes out

    def book(self, until: float, busy: Iterable[Step] = ()) -> None:
        """Share everything up to `until` among the steps so far, and `busy`, steps that have not ended yet.

        Beyond the last reading, energy is taken to go on as it did while steps ran.
        """
        last = self.curve.last
        if last is None or until <= self._until:
            return
        steps = [*self._steps, *busy]
        moments = self.curve.between(self._until, until)
        if self._until < self._busy_from < until:
            moments = sorted({*moments, self._busy_from})
        for begin, end in pairwise(moments):
            self._piece(begin, end, steps, seen=end <= last)
        self._until = until
        while self._steps and self._steps[0].t1 <= until:
            self._steps.popleft()
        self.curve.forget_before(until)

    def close(self, job: int) -> Account:
        """Take a job's account; whatever of it comes later is nobody's."""
        return self.accounts.pop(job)

    def _piece(self, begin: float, end: float, steps: list[Step], *, seen: bool) -> None:
        inside = [(s, o) for s in steps if (o := min(end, s.t1) - max(begin, s.t0)) > 0]
        active = min(end - begin, sum(overlap for _, overlap in inside))
        idle_watts = self.baseline.watts or 0.0
        effort = sum(step.effort * overlap / (step.t1 - step.t0) for step, overlap in inside)
        joules = self._joules(end, end - begin, effort, seen=seen)
        if joules is None:
            return
        # Unsure moments make one piece poor and the next one rich: what a poor one lacks to be idle, the next one pays.
        due = idle_watts * (end - begin) + (self._idle_due if inside else 0.0)
        idle = min(joules, due)
        self._idle_due = due - idle if inside else 0.0
        beyond = joules - idle
        if effort:
            self._learn(beyond, effort, end - begin)
        if not inside:
            quiet = not self.accounts or end <= self._busy_from
            if quiet and seen and begin > self._worked_until + SETTLING * self.spec.period_s + self.spec.lag_s:
                self.baseline.note(end - begin, joules)
            else:
                self.baseline.interrupt()
            self.idle += joules if quiet else idle
            self.unattributed += 0.0 if quiet else beyond
            return
        self.baseline.interrupt()
        self._worked_until = end
        given_idle = idle * active / (end - begin)
        self.idle += idle - given_idle
        self._share(inside, beyond, given_idle, seen=seen)

    def _joules(self, end: float, seconds: float, effort: float, *, seen: bool) -> float | None:
        """Energy of a piece, less what was booked ahead; None where nothing is known of it yet."""
        if seen:
            joules = self.curve.at(end) - self._mark
            if not effort and self.baseline.watts is not None and not self.curve.knows(end):
                # Between two readings work is not spread evenly: where no step was, there was none of it.
                joules = min(joules, self.baseline.watts * seconds)
            self._mark += joules
            self.risen += joules
            paid = min(self._owed, joules) if self._owed > 0 else self._owed
            self._owed -= paid
            return joules - paid
        if not self._efforts:
            return None
        joules = (self.baseline.watts or 0.0) * seconds + max(0.0, self._works) / self._efforts * effort
        self._owed += joules
        return joules

    def _share(self, inside: list[tuple[Step, float]], beyond: float, idle: float, *, seen: bool) -> None:
        efforts = [step.effort * overlap / (step.t1 - step.t0) for step, overlap in inside]
        total = sum(efforts)
        jobs = {part.job for step, _ in inside for part in step.parts}
        for (step, overlap), effort in zip(inside, efforts, strict=True):
            weight = effort / total if total else overlap / sum(o for _, o in inside)
            for part in step.parts:
                share = weight * part.share
                self._give(part, beyond * share, idle * share, overlap, seen=seen, alone=len(jobs) == 1)

    def _give(self, part: Part, joules: float, idle: float, seconds: float, *, seen: bool, alone: bool) -> None:
        account = self.accounts.get(part.job)
        if account is None:
            self.idle += idle
            self.unattributed += joules
            return
        if part.prefill:
            account.prefill += joules
        else:
            account.decode += joules
        account.idle += idle
        self.attributed += joules + idle
        account.shared += 0.0 if alone else joules
        if seen:
            account.covered += seconds
        else:
            account.extended += joules

    def _learn(self, joules: float, effort: float, seconds: float) -> None:
        """Note what effort took, in sums that fade: what one piece has too much, the next has too little."""
        if self._efforts:
            off = abs(joules / effort * self._efforts / max(self._works, 1e-12) - 1)
            self._spread += min(seconds, 0.1) * (min(off, 1.0) - self._spread)
        kept = math.exp(-seconds / _FADES_S)
        self._works = kept * self._works + joules
        self._efforts = kept * self._efforts + effort

    def uncertainty(self, account: Account) -> float | None:
        """Half the width of the 95 % interval in joules: edges, baseline, what was extended, how steps divide."""
        if not account.weighted_s or account.fault:
            return None
        watts = account.joules / account.weighted_s
        edge = watts * self.curve.drift / math.sqrt(3)
        parts = (
            2 * edge * math.sqrt(2),
            2 * self.baseline.error(self.curve.drift) * account.weighted_s,
            2 * self._spread * account.extended,
            _FREE_SHARE * account.shared,
            self.spec.accuracy * account.joules,
        )
        return math.sqrt(sum(part * part for part in parts))
