"""What each answer costs: step records and sensor readings in, one `Energy` per job out. Composes; computes nothing.

Used from the event loop and from the sampler's thread, under one lock that is never held while a sensor is read.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

from backends.contract import StepRecord
from backends.handle import EngineHandle
from localai.energy.attribution import Account, Book
from localai.energy.baseline import Baseline
from localai.energy.curve import Curve
from localai.energy.draw import HINDERED, Draw, Draws
from localai.energy.experience import Circumstances, Experience, Past
from localai.energy.figures import Energy, Quality
from localai.energy.modelled import CpuTimeSensor, ModelledSensor, ProcessTimes
from localai.energy.neighbours import Neighbours
from localai.energy.sampler import Sampler, Taken, seconds_slept
from localai.energy.sensor import GONE, Sensor
from localai.energy.sensors import Inventory
from localai.energy.taps import EngineKey, Rates, Tap, Work

_LEAST_COVERAGE = 0.2
"""Below this share of readings, a figure says more about other times than about the answer."""
_HINDERS = 0.25
"""Cores that others take, from which on they hold an engine up."""
_COMPUTES = 0.1
"""Share of its threads' time from which on an engine computes with them, and does not wait for a board."""
_SILENT = 0.05
"""Share of the modelled joules below which a sensor has not shown yet what an open answer takes."""
_MOST_WAITING = 64
"""Steps that wait to be booked: together they cost a tenth of what they cost one by one, between tokens."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Joules since the sensors in use were found. `risen` is what their counters rose by while they were read."""

    risen: float
    attributed: float
    idle: float
    unattributed: float
    readings: int


class Look(Protocol):
    """Gives other sensors than before, or None; `lost` says that one of those before has failed."""

    def __call__(self, *, lost: bool) -> Inventory | None: ...


class Meter:
    """One per daemon. `close` ends its thread."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        watts: float = 0.0,
        times: ProcessTimes | None = None,
        gpu: bool = False,
        draws: Draws | None = None,
        slept: Callable[[], float] = seconds_slept,
        remembered: Callable[[EngineKey], Iterable[Past]] = lambda _: (),
        look: Look | None = None,
    ) -> None:
        """`watts` of one busy core for the model, 0 takes typical ones; `gpu` says that engines may use a board.

        `draws` is where each answer's watts are learned, `remembered` gives answers of an engine from before. `look`
        is asked for other sensors where an answer begins and none runs.
        """
        self.inventory = inventory
        self._times = times or ProcessTimes()
        self._neighbours = Neighbours(self._times.read)
        self._model = ModelledSensor(self._times.read, watts)
        self._slept = slept
        self._books, self._sampler = self._with(inventory)
        self._lock = Lock()
        self._taps: dict[EngineKey, Tap] = {}
        self._engine_of: dict[int, Tap] = {}
        self._waiting: deque[tuple[Tap, StepRecord]] = deque()
        self._gpu = gpu
        self._look = look
        self._draws = draws
        self._remembered = remembered
        self._sampler.glance()

    @property
    def basis(self) -> Quality:
        """The quality that figures have here at best."""
        return self.inventory.quality(on_gpu=self._gpu)

    def totals(self) -> Totals:
        """Of the sensors, or of the model where there are none."""
        with self._lock:
            self._take_steps()
            books = self._measuring()
            return Totals(
                risen=sum(book.risen for book in books),
                attributed=sum(book.attributed for book in books),
                idle=sum(book.idle for book in books),
                unattributed=sum(book.leftover for book in books),
                readings=self._sampler.readings,
            )

    def close(self) -> None:
        self._sampler.close()

    # -- engines

    def tap(self, key: EngineKey) -> Callable[[StepRecord], None]:
        """Where the steps of this engine go. Loading begins now, which ends a time of being idle."""
        tap = self._tap(key)
        self._sampler.glance()
        return lambda record: self._step(tap, record)

    def ready(self, key: EngineKey, handle: EngineHandle) -> None:
        """The engine has been loaded: its process counts from now on."""
        self._tap(key).info = handle.info
        if handle.pid is not None:
            with self._lock:
                self._times.add(handle.pid)

    def token_joules(self, key: EngineKey) -> float | None:
        """What a token of an answer takes on this engine as things are now; None where no answer has told."""
        with self._lock:
            return self._tap(key).token_joules(self._neighbours())

    def working(self) -> tuple[tuple[EngineKey, int], ...]:
        """Engines that have open jobs, with their threads."""
        with self._lock:
            return tuple((tap.key, tap.threads) for tap in self._taps.values() if tap.jobs)

    def _tap(self, key: EngineKey) -> Tap:
        if key not in self._taps:
            self._taps[key] = Tap(key, experience=Experience.of(self._remembered(key)))
        return self._taps[key]

    def _step(self, tap: Tap, record: StepRecord) -> None:
        self._waiting.append((tap, record))
        if len(self._waiting) >= _MOST_WAITING:
            with self._lock:
                self._take_steps()

    def _take_steps(self) -> None:
        """Book the steps that wait. To be done, under the lock, before whatever depends on them."""
        while self._waiting:
            tap, record = self._waiting.popleft()
            if (steps := tap.steps(record)) is None:
                continue
            by_cpu, by_wall = steps
            self._model.moved(tap.bytes_moved(record))
            for book in self._books:
                book.step(by_wall if book.spec.scope == "gpu_board" else by_cpu)

    # -- jobs

    def open(
        self,
        job: int,
        key: EngineKey,
        forecast: Rates | None = None,
        *,
        most: int | None = None,
        choices: int = 1,
        fixed: bool = False,
    ) -> None:
        """Expect steps of this job on the engine for `key`; `forecast` holds where no answer has told its rates.

        Each of `choices` ends at `most` tokens, or, where `fixed`, not before.
        """
        if self._look is not None and not self._engine_of:
            lost = any(GONE in book.fault for book in self._measuring())
            self._use(self._look(lost=lost), lost=lost)
        # Without a reading here, what the others took just before would be shared with the newcomer.
        for taken in self._sampler.read_now() if self._engine_of else ():
            self._report(taken)
        now = time.monotonic()
        with self._lock:
            self._take_steps()
            tap = self._tap(key)
            if not tap.jobs:
                tap.known = max(tap.known, now)
            tap.jobs[job] = tap.begun(forecast, self._neighbours(), most, choices, fixed=fixed)
            self._engine_of[job] = tap
            for book in self._books:
                book.open(job, now)
        self._sampler.begin()

    def spent(self, job: int) -> tuple[float, Quality]:
        """Joules that an open job has taken so far, and how they are known.

        Where a sensor was lost meanwhile, or shows next to nothing, as a battery's may for half a minute, the model
        tells what it has not seen.
        """
        with self._lock:
            self._take_steps()
        for taken in self._sampler.read_now():
            self._report(taken)
        with self._lock:
            seen = [book.accounts[job] for book in self._measuring()]
            joules = sum(account.joules for account in seen)
            model = self._books[len(self.inventory.sensors)].accounts[job].joules
            if not any(account.fault for account in seen) and joules >= _SILENT * model:
                return joules, self.basis
            return max(joules, model), "modelled"

    def end(self, job: int, *, whole: bool = True) -> Energy:
        """The figures of a job, which is over now; `whole` where its answer was not cut short."""
        with self._lock:
            self._take_steps()
        readings = self._sampler.read_now()
        now = time.monotonic()
        with self._lock:
            self._take_steps()
            for taken in readings:
                self._note(taken)
            tap = self._engine_of.pop(job)
            work = tap.jobs.pop(job)
            presumed = [step for each in self._taps.values() if (step := each.presume(now, job))]
            for book in self._books:
                book.book(now, presumed)
            accounts = [(book, book.close(job)) for book in self._books]
            quiet = not self._engine_of
            during = Circumstances(tap.running or tap.threads, work.began.beside, self._neighbours())
        if quiet:
            self._sampler.end()
        energy = self._figures(accounts, tap, work)
        self._learn(tap, energy, work, during, whole=whole)
        return energy

    # -- sensors that come and go

    def _with(self, inventory: Inventory) -> tuple[list[Book], Sampler]:
        sensors: tuple[Sensor, ...] = (*inventory.sensors, self._model, CpuTimeSensor(self._times.read))
        return [_book(sensor) for sensor in sensors], Sampler(sensors, self._report, self._slept)

    def _use(self, inventory: Inventory | None, *, lost: bool) -> None:
        """Read other sensors from now on. Totals begin anew: modelled joules are never added to measured ones."""
        if inventory is None or (_ids(inventory) == _ids(self.inventory) and not lost):
            return
        self._sampler.close()
        with self._lock:
            self._take_steps()
            self.inventory = inventory
            self._books, self._sampler = self._with(inventory)

    # -- readings

    def _report(self, taken: Taken) -> None:
        with self._lock:
            self._take_steps()
            if not self._note(taken):
                return
            book = self._books[taken.index]
            known = min((tap.known for tap in self._taps.values() if tap.jobs), default=math.inf)
            if book.curve.last is not None:
                book.book(min(known, book.curve.last))

    def _note(self, taken: Taken) -> bool:
        """Whether there is more to book with it."""
        book = self._books[taken.index]
        if taken.joules is not None:
            return book.reading(taken.before, taken.after, taken.joules)
        if taken.fresh:
            book.restart()
        else:
            book.broken(taken.fault)
        return True

    def _learn(self, tap: Tap, energy: Energy, work: Work, during: Circumstances, *, whole: bool) -> None:
        answer = Past(
            seen=during,
            whole=whole,
            prefill=work.prefill,
            decode=work.decode,
            prefill_joules=energy.prefill_joules,
            decode_joules=energy.decode_joules,
            quality=energy.quality,
            length=work.made,
        )
        with self._lock:
            tap.experience.note(answer)
        threads = during.threads
        if self._draws is None or energy.joules is None or not threads:
            return
        hindered = during.foreign > _HINDERS
        # Time in which others had the cores is none in which this engine drew power.
        share = _ran(energy.cpu_seconds, threads * (work.prefill_s + work.decode_s)) if hindered else 1.0
        seen = Draw(
            threads=threads,
            prefill=_watts(energy.prefill_joules, share * work.prefill_s),
            decode=_watts(energy.decode_joules, share * work.decode_s),
            quality=energy.quality,
            basis=f"{energy.quality} in answers here{HINDERED if hindered else ''}",
        )
        self._draws.learn(tap.key[1], tap.key[2], seen)

    def _measuring(self) -> list[Book]:
        count = len(self.inventory.sensors)
        return self._books[:count] or self._books[count : count + 1]

    def _figures(self, accounts: Sequence[tuple[Book, Account]], tap: Tap, work: Work) -> Energy:
        *sensed, model, cpu = accounts
        energy = _combined(sensed, self.inventory.quality(on_gpu=self._gpu and tap.on_gpu)) if sensed else _NOTHING
        if not sensed or (energy.joules is None and not any(account.fault for _, account in sensed)):
            known = _combined([model], "modelled")
            sensors = energy.reason or "no energy sensor here: `localai doctor` lists what was looked for"
            energy = known if known.joules is None else replace(known, reason=sensors)
        seconds = cpu[1].joules
        return replace(
            energy,
            cpu_seconds=seconds if seconds > 0 else None,
            predicted_joules=work.predicted(),
            forecast_joules=work.forecast(),
            forecast_tokens=None if work.length is None else work.choices * work.length,
        )


_NOTHING = Energy()


def _book(sensor: Sensor) -> Book:
    # Processes that do nothing take no CPU time: their idle is exactly nothing.
    return Book(Curve(sensor.spec), Baseline(fixed=0.0 if sensor.spec.scope == "processes" else None))


def _ids(inventory: Inventory) -> set[str]:
    return {sensor.spec.id for sensor in inventory.sensors}


def _combined(accounts: Sequence[tuple[Book, Account]], quality: Quality) -> Energy:
    """The accounts of one job with several sensors as one figure; null, with the reason, where one is missing."""
    fault = next((account.fault for _, account in accounts if account.fault), "")
    if fault:
        return Energy(reason=fault)
    coverage = min(account.covered / account.seconds if account.seconds else 0.0 for _, account in accounts)
    prefill, decode = sum(a.prefill for _, a in accounts), sum(a.decode for _, a in accounts)
    joules = prefill + decode
    if joules <= 0 or coverage < _LEAST_COVERAGE:
        return Energy(reason="the answer was too short for the sensor's period")
    baselines = [book.baseline.watts for book, _ in accounts]
    idle = None if None in baselines or quality == "modelled" else sum(a.idle for _, a in accounts)
    errors = [book.uncertainty(account) for book, account in accounts]
    known = quality == "modelled" or None not in baselines
    seconds = max(account.weighted_s for _, account in accounts)
    integrated = any(book.spec.method == "integrated_power" for book, _ in accounts)
    return Energy(
        joules=joules,
        prefill_joules=prefill or None,
        decode_joules=decode or None,
        idle_joules=idle,
        watts=joules / seconds if seconds else None,
        quality=quality,
        method="model" if quality == "modelled" else "integrated_power" if integrated else "counter",
        scope=tuple(sorted({book.spec.scope for book, _ in accounts})),
        coverage=min(1.0, coverage),
        uncertainty=math.sqrt(sum((error or 0.0) ** 2 for error in errors)) / joules if known else None,
        reason="" if known else "idle power is not known yet, so that joules include it",
    )


def _ran(cpu_s: float | None, most: float) -> float:
    """The share of its time in which an engine had its cores; all of it where a board computes."""
    return min(1.0, cpu_s / most) if cpu_s and most and cpu_s > _COMPUTES * most else 1.0


def _watts(joules: float | None, seconds: float) -> float | None:
    return joules / seconds if joules is not None and seconds > 0 else None
