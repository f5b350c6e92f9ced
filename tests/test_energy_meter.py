"""The meter over sensors that behave as badly as real ones: what it cannot know is null, with the reason."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pytest

from backends.contract import Share, StepRecord
from localai.energy.budgets import DayBudget
from localai.energy.figures import Energy
from localai.energy.meter import Meter
from localai.energy.modelled import ModelledSensor, ProcessTimes
from localai.energy.sampler import Sampler
from localai.energy.sensor import CounterSensor, Sensor, Spec
from localai.energy.sensors import Inventory
from localai.energy.spending import Metering, Spending
from localai.errors import BadRequest, EnergyBudgetSpent
from tests.daemon_fixture import wait_for

KEY = ("model", "echo", "")
SPEC = Spec(id="rapl.package-0", scope="cpu_package", method="counter", period_s=0.001, covers="", accuracy=0.0)
BUSY_W, IDLE_W = 40.0, 10.0


class Machine:
    """A counter that rises with real time: 10 W idle, 40 W more while something works. It can be broken.

    `worked` are the seconds of work that it has seen.
    """

    def __init__(self) -> None:
        self._at, self._joules, self.working = time.monotonic(), 0.0, False
        self.worked = 0.0
        self._lock = Lock()
        self.trouble: Callable[[int], int] = lambda value: value
        self.asleep = 0.0

    def read(self) -> int:
        with self._lock:
            now = time.monotonic()
            self._joules += (IDLE_W + BUSY_W * self.working) * (now - self._at)
            self.worked += self.working * (now - self._at)
            self._at = now
        return self.trouble(int(self._joules * 1e6))

    def sensor(self) -> Sensor:
        return CounterSensor(SPEC, self.read, 1e-6)

    @contextmanager
    def work(self) -> Iterator[None]:
        self.read_quietly()
        self.working = True
        yield
        self.read_quietly()
        self.working = False

    def read_quietly(self) -> None:
        trouble, self.trouble = self.trouble, lambda value: value
        self.read()
        self.trouble = trouble


@contextmanager
def metered(machine: Machine, *, sensors: bool = True) -> Iterator[Meter]:
    meter = Meter(Inventory((machine.sensor(),) if sensors else (), ()), slept=lambda: machine.asleep)
    try:
        yield meter
    finally:
        meter.close()


def ask(
    meter: Meter, machine: Machine, job: int, *, steps: int = 10, midway: Callable[[], None] | None = None
) -> Energy:
    """One job: a prefill step of 8 tokens, then decode steps of 20 ms."""
    tap = meter.tap(KEY)
    meter.open(job, KEY)
    with machine.work():
        for number in range(steps):
            begin = time.monotonic()
            time.sleep(0.02)
            share = Share(job, 8, 0, 8) if number == 0 else Share(job, 0, 1, 8 + number)
            tap(StepRecord(begin, time.monotonic(), 0.02, 1, [share]))
            if midway is not None and number == steps // 2:
                midway()
        energy = meter.end(job)
    return energy


def test_joules_are_marginal_and_idle_comes_beside_them() -> None:
    machine = Machine()
    with metered(machine) as meter:
        time.sleep(1.3)
        energy = ask(meter, machine, 1)
        time.sleep(0.3)
        totals = meter.totals()
    assert (energy.quality, energy.method, energy.scope) == ("measured_partial", "counter", ("cpu_package",))
    # Ten steps of 20 ms, and longer ones where others want the processor.
    assert machine.worked >= 0.2
    assert energy.joules == pytest.approx(BUSY_W * machine.worked, rel=0.2)
    assert energy.idle_joules == pytest.approx(IDLE_W * machine.worked, rel=0.2)
    assert energy.watts == pytest.approx(BUSY_W, rel=0.2)
    assert energy.coverage == pytest.approx(1.0, abs=0.1)
    assert energy.uncertainty is not None
    assert energy.joules == pytest.approx((energy.prefill_joules or 0) + (energy.decode_joules or 0))
    assert totals.attributed + totals.idle + totals.unattributed == pytest.approx(totals.risen, rel=1e-6)
    assert abs(totals.unattributed) <= 0.02 * totals.risen


def _raise(error: OSError) -> Callable[[int], int]:
    def trouble(_: int) -> int:
        raise error

    return trouble


def _vanish(machine: Machine) -> None:
    machine.trouble = _raise(FileNotFoundError())


def _forbid(machine: Machine) -> None:
    machine.trouble = _raise(PermissionError())


def _backwards(machine: Machine) -> None:
    machine.trouble = lambda _: 0


def _sleep(machine: Machine) -> None:
    machine.asleep += 3600.0


@pytest.mark.parametrize(
    ("trouble", "says"),
    [(_vanish, "is gone"), (_forbid, "no longer be read"), (_backwards, "went backwards"), (_sleep, "slept")],
    ids=["vanished", "forbidden", "backwards", "suspended"],
)
def test_what_a_broken_sensor_leaves_is_null_with_the_reason(trouble: Callable[[Machine], None], says: str) -> None:
    machine = Machine()
    with metered(machine) as meter:
        time.sleep(0.05)
        energy = ask(meter, machine, 1, steps=16, midway=lambda: trouble(machine))
        assert (energy.joules, energy.idle_joules, energy.watts, energy.quality) == (None, None, None, "none")
        assert says in energy.reason
        if trouble is _sleep:
            assert ask(meter, machine, 2).joules is not None


def test_sensors_may_come_and_go_between_answers() -> None:
    machine = Machine()
    present = [False]

    def look(*, lost: bool) -> Inventory:
        return Inventory((machine.sensor(),) if present[0] else (), ())

    meter = Meter(Inventory((), ()), slept=lambda: 0.0, look=look)
    try:
        assert ask(meter, machine, 1).scope == ()
        present[0] = True
        assert ask(meter, machine, 2, steps=20).scope == ("cpu_package",)
        totals = meter.totals()
        assert totals.attributed + totals.idle + totals.unattributed == pytest.approx(totals.risen, rel=1e-6)
        present[0] = False
        assert ask(meter, machine, 3).scope == ()
        assert meter.basis == "modelled"
    finally:
        meter.close()


def _stand(machine: Machine) -> None:
    """As a battery's reading does between two changes."""
    machine.trouble = lambda _: 0


@pytest.mark.parametrize("trouble", [_vanish, _stand], ids=["lost", "silent"])
def test_a_limit_holds_without_the_sensor(trouble: Callable[[Machine], None]) -> None:
    """By the model, of processor time that this process really takes; without it the answer would never end."""
    machine, times = Machine(), ProcessTimes()
    times.add(os.getpid())
    meter = Meter(Inventory((machine.sensor(),), ()), times=times, watts=100.0)
    try:
        tap = meter.tap(KEY)
        meter.open(1, KEY)
        spending = Spending(meter, 1, KEY, 20.0)
        ends = time.monotonic() + 60
        trouble(machine)
        while not spending.over() and time.monotonic() < ends:
            begin, busy = time.monotonic(), time.process_time()
            while time.process_time() - busy < 0.02:
                pass
            tap(StepRecord(begin, time.monotonic(), 0.02, 1, [Share(1, 0, 1, 8)]))
        energy = spending.energy()
    finally:
        meter.close()
    assert "max_joules 20 is reached" in energy.stopped
    assert "modelled" in energy.stopped
    if trouble is _vanish:
        assert (energy.joules, "is gone" in energy.reason) == (None, True)


def test_without_a_sensor_figures_are_modelled_and_never_0() -> None:
    machine = Machine()
    with metered(machine, sensors=False) as meter:
        energy = ask(meter, machine, 1)
    assert energy.quality == "none"
    assert energy.joules is None
    assert energy.reason


def test_the_model_counts_processor_time_of_its_processes() -> None:
    times = ProcessTimes()
    times.add(os.getpid())
    model = ModelledSensor(times.read, watts=10.0)
    begin = time.process_time()
    while time.process_time() - begin < 0.2:
        pass
    assert model.read(0.0) == pytest.approx(2.0, rel=0.2)
    model.moved(1e9)
    assert model.read(0.0) > 2.1


def test_a_reading_that_took_long_once_is_no_reason_to_read_seldom() -> None:
    """Other programs take the core away in the middle of it: what follows is read when an answer ends all the same."""
    pauses: list[float] = []

    def read() -> int:
        time.sleep(pauses.pop() if pauses else 0)
        return 1

    def settled() -> bool:
        if not sampler.read_now():
            sampler.glance()
            return False
        return [len(sampler.read_now()) for _ in range(9)] == [1] * 9

    sampler = Sampler((CounterSensor(SPEC, read, 1e-6),), lambda _: None, lambda: 0.0)
    wait_for(settled)
    sampler.close()
    pauses.append(0.1)
    assert [len(sampler.read_now()) for _ in range(6)] == [1] * 6


def test_an_answer_without_processor_time_says_why_it_has_no_joules() -> None:
    machine = Machine()
    with metered(machine, sensors=False) as meter:
        energy = ask(meter, machine, 1)
    assert (energy.joules, "too short" in energy.reason) == (None, True)


def test_nothing_is_read_while_nothing_runs() -> None:
    machine = Machine()
    with metered(machine) as meter:
        ask(meter, machine, 1)

        def resting() -> bool:
            before = meter.totals().readings
            time.sleep(0.5)
            return meter.totals().readings == before

        wait_for(resting)


def test_the_day_has_a_budget() -> None:
    budget = DayBudget(10.0, lambda _: 8.0)
    budget.check()
    budget.add(Energy(joules=3.0))
    budget.add(Energy())
    with pytest.raises(EnergyBudgetSpent, match="11 of 10 J"):
        budget.check()


def test_a_limit_below_one_token_is_refused() -> None:
    machine = Machine()
    with metered(machine) as meter:
        time.sleep(0.05)
        ask(meter, machine, 1)
        metering, recorded = Metering(meter, DayBudget(0, lambda _: 0.0)), []
        with pytest.raises(BadRequest, match="one token"), metering.job(2, KEY, 1e-6, recorded.append):
            pass
        with metering.job(3, KEY, 100.0, recorded.append) as spending:
            assert not spending.over()
    assert [energy.quality for energy in recorded] == ["none"]


def test_only_the_clock_that_never_jumps_is_used() -> None:
    folder = Path(__file__).parents[1] / "localai" / "energy"
    assert [path.name for path in folder.glob("*.py") if "time.time(" in path.read_text()] == []
