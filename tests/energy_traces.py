"""Energy traces with a known truth: steps of several engines, each with its power, and a sensor that watches."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from dataclasses import dataclass, field

from localai.energy.attribution import Account, Book, Step
from localai.energy.baseline import Baseline
from localai.energy.curve import Curve
from localai.energy.rhythm import Rhythm
from localai.energy.sensor import CounterSensor, Spec
from localai.energy.shares import Part


@dataclass(frozen=True, slots=True)
class Powered:
    """A step and the watts beyond idle that it really took."""

    step: Step
    watts: float


@dataclass(slots=True)
class Trace:
    """What really happened: idle watts all the time, and the steps on top; `jobs` are open from begin to end."""

    idle_watts: float
    steps: list[Powered]
    jobs: dict[int, tuple[float, float]]
    _times: list[float] = field(default_factory=list)
    _joules: list[float] = field(default_factory=list)
    _watts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        changes: dict[float, float] = {}
        for each in self.steps:
            changes[each.step.t0] = changes.get(each.step.t0, 0.0) + each.watts
            changes[each.step.t1] = changes.get(each.step.t1, 0.0) - each.watts
        moment, joules, watts = 0.0, 0.0, self.idle_watts
        for at in (0.0, *sorted(changes)):
            joules += watts * (at - moment)
            watts += changes.get(at, 0.0)
            moment = at
            self._times.append(at)
            self._joules.append(joules)
            self._watts.append(watts)

    def joules(self, at: float) -> float:
        place = bisect_right(self._times, at) - 1
        return self._joules[place] + self._watts[place] * (at - self._times[place]) if place >= 0 else 0.0

    def truth(self, job: int) -> float:
        """Joules beyond idle of one job."""
        found = [(p, part.share) for p in self.steps for part in p.step.parts if part.job == job]
        return sum(p.watts * (p.step.t1 - p.step.t0) * share for p, share in found)


class Watching:
    """A counter over a trace: it changes once per period, late and unsteadily, and wraps."""

    def __init__(
        self, trace: Trace, spec: Spec, rng: random.Random, *, unit: float, wraps_at: int, gain: float
    ) -> None:
        self.now = 0.0
        self._trace, self._spec, self._gain = trace, spec, gain
        self._unit, self._wraps_at = unit, wraps_at
        self._next, self._value = 0.0, rng.randrange(wraps_at) if wraps_at else 0
        self._first = self._value
        self._rng = rng
        self.sensor = CounterSensor(spec, self._raw, unit, wraps_at)

    def _raw(self) -> int:
        while self._next <= self.now:
            seen = self._gain * self._trace.joules(self._next - self._spec.lag_s)
            self._value = self._first + int(seen / self._unit)
            self._next += self._spec.period_s + self._rng.uniform(-1, 1) * self._spec.jitter_s
        return self._value % self._wraps_at if self._wraps_at else self._value


def meter(
    trace: Trace, watching: Watching, *, poll: float | None, rng: random.Random, until: float
) -> tuple[Book, dict[int, Account]]:
    """Run a book over a trace as the daemon would: readings, steps when they end, jobs closed when they end.

    Readings come every `poll` seconds, where that is None as the sampler paces those of a coarse counter.
    """
    spec = watching.sensor.spec
    book, rhythm = Book(Curve(spec), Baseline()), Rhythm(spec)
    closed: dict[int, Account] = {}
    events: list[tuple[float, int, int, str, Powered | int | None]] = [(0.0, 0, 0, "read", None)]
    events += [(begin, 1, job, "open", job) for job, (begin, _) in trace.jobs.items()]
    events += [(p.step.t1, 2, number, "step", p) for number, p in enumerate(trace.steps)]
    events += [(end, 3, job, "close", job) for job, (_, end) in trace.jobs.items()]
    heapq.heapify(events)
    running = sorted(trace.steps, key=lambda p: p.step.t0)

    def read(at: float) -> float:
        watching.now = at
        value = watching.sensor.read(at)
        book.reading(at, at, value)
        return value

    while events:
        at, _, _, what, value = heapq.heappop(events)
        # What costs next to nothing is read at once, as the sampler does.
        at_once = spec.period_s < 0.01
        if what == "read":
            paced = rhythm.wait(at, read(at))
            wait = paced if poll is None else poll
            known = min((p.step.t0 for p in running if p.step.t0 < at < p.step.t1), default=at)
            if book.curve.last is not None:
                book.book(min(known, book.curve.last))
            if at + wait < until:
                # A thread that sleeps wakes late rather than early.
                heapq.heappush(events, (at + wait * rng.uniform(1.0, 1.1), 0, 0, "read", None))
        elif isinstance(value, Powered):
            book.step(value.step)
        elif what == "open" and value is not None:
            if at_once:
                read(at)
            book.open(value, at)
        elif value is not None:
            if at_once:
                read(at)
            halves = [_cut(p.step, at) for p in running if p.step.t0 < at < p.step.t1]
            book.book(at, halves)
            closed[value] = book.close(value)
    return book, closed


def schedule(
    rng: random.Random,
    *,
    seconds: float,
    engines: int,
    jobs: int,
    idle_watts: float,
    quiet: float = 2.0,
    watts: float = 40.0,
) -> Trace:
    """After `quiet` seconds, random jobs on engines whose steps follow each other; an engine's jobs share its steps."""
    spans: dict[int, tuple[float, float]] = {}
    where: dict[int, list[int]] = {engine: [] for engine in range(engines)}
    for job in range(1, jobs + 1):
        begin = rng.uniform(quiet, quiet + seconds)
        spans[job] = (begin, begin + rng.uniform(0.05, 1.0) * seconds)
        where[rng.randrange(engines)].append(job)
    steps: list[Powered] = []
    ends: dict[int, float] = {}
    for mine in where.values():
        steps += _engine(rng, {job: spans[job] for job in mine}, watts * rng.uniform(0.6, 1.4), ends)
    return Trace(idle_watts, steps, {job: (spans[job][0], end) for job, end in ends.items()})


def _engine(
    rng: random.Random, spans: dict[int, tuple[float, float]], watts: float, ends: dict[int, float]
) -> list[Powered]:
    made: list[Powered] = []
    moment, left = min((b for b, _ in spans.values()), default=0.0), dict(spans)
    while left:
        running = [job for job, (begin, _) in left.items() if begin <= moment]
        if not running:
            moment = min(begin for begin, _ in left.values())
            continue
        long = rng.uniform(0.005, 0.04)
        weights = [rng.uniform(0.5, 2.0) for _ in running]
        parts = tuple(
            Part(job, weight / sum(weights), prefill=rng.random() < 0.2)
            for job, weight in zip(running, weights, strict=True)
        )
        power = watts * rng.uniform(0.95, 1.05)
        made.append(Powered(Step(moment, moment + long, watts * long, parts), power))
        moment += long
        for job in running:
            if left[job][1] <= moment:
                ends[job] = moment
                del left[job]
        moment += rng.choice((0.0, 0.0002))
    return made


def _cut(step: Step, at: float) -> Step:
    return Step(step.t0, at, step.effort * (at - step.t0) / (step.t1 - step.t0), step.parts)
