"""The one thread that reads sensors, on the monotonic clock, only while something runs. Knows nothing of jobs.

Coarse sensors are read some times per period, fine ones four times a second, and all less often where that would cost
more than 0.3 % of a core.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from localai.energy.rhythm import Rhythm
from localai.energy.sensor import Sensor
from localai.errors import SensorFault

_LEAST_S = 0.25
"""Seconds between readings of a counter that is always up to date: it is read anyway when an answer ends."""
_COARSE_S = 0.1
_COST = 0.003
"""Most of a core that reading all sensors may take."""
_QUICK_S = 0.0005
_RECENT = 9
"""Readings that tell what one costs."""
_SLEPT_S = 0.5
_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_IDLE_S = 1.5
_TAIL_PERIODS = 1.2
"""Periods after the last job in which sensors are still read, so that what came late is seen."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One attempt to read sensor `index`: it took from `before` to `after`; `joules` is None where `fault` says why.

    `fresh` is the first one after a pause.
    """

    index: int
    before: float
    after: float
    joules: float | None
    fault: str = ""
    fresh: bool = False


class Sampler:
    """Reads `sensors` between `begin` and `end`; `report` gets each attempt, in the sampler's thread."""

    def __init__(self, sensors: Sequence[Sensor], report: Callable[[Taken], None], slept: Callable[[], float]) -> None:
        """`slept` gives seconds that the machine has slept since it started."""
        self._sensors = sensors
        self._report = report
        self._slept = slept
        self._slept_before = slept()
        self._looking = threading.Lock()
        self._busy = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._due = [0.0] * len(sensors)
        self._patience = [_RETRY_S] * len(sensors)
        self._costs = [0.0] * len(sensors)
        self._took: list[deque[float]] = [deque(maxlen=_RECENT) for _ in sensors]
        self._fresh = [True] * len(sensors)
        self._locks = [threading.Lock() for _ in sensors]
        self._rhythms = [Rhythm(sensor.spec) for sensor in sensors]
        self.readings = 0

    def begin(self) -> None:
        """Something runs: read from now on."""
        if not self._busy.is_set():
            self._fresh = [True] * len(self._sensors)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
            self._thread.start()
        self._busy.set()

    def end(self) -> None:
        """Nothing runs any more."""
        self._busy.clear()

    def glance(self) -> None:
        """Read once, where nothing runs: the energy between two such moments is what being idle takes."""
        if not self._busy.is_set():
            self.begin()
            self.end()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def read_now(self) -> list[Taken]:
        """Read, from any thread, the sensors that cost so little that somebody may wait for them."""
        quick = [i for i, cost in enumerate(self._costs) if 0 < cost < _QUICK_S and not self._locks[i].locked()]
        # A request that ends right after the machine woke up must not be told the joules of its sleep.
        return [*self._woken(), *(self._read(index) for index in quick)]

    def _woken(self) -> list[Taken]:
        """What is to be said of each sensor where the machine has slept since the last look; else nothing."""
        with self._looking:
            slept = self._slept()
            awake = slept - self._slept_before < _SLEPT_S
            self._slept_before = slept
            if awake:
                return []
            now = time.monotonic()
            said = [Taken(i, now, now, None, "the machine slept", fresh) for i, fresh in enumerate(self._fresh)]
            self._fresh = [True] * len(self._sensors)
        return said

    def _read(self, index: int, *, fresh: bool = False) -> Taken:
        joules, fault = None, ""
        with self._locks[index]:
            before = time.monotonic()
            try:
                joules = self._sensors[index].read(before)
            except SensorFault as error:
                fault = error.message
            after = time.monotonic()
            # The median: where others want the core too, a cheap reading takes a thousand times as long now and then.
            self._took[index].append(after - before)
            self._costs[index] = median(self._took[index])
            self.readings += 1
        return Taken(index, before, after, joules, fault, fresh)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._busy.wait()
            self._fresh = [True] * len(self._sensors)
            self._due = [0.0] * len(self._sensors)
            while self._busy.is_set() and not self._ended.is_set():
                self._round()
                # Woken by the end alone: a request that ends is booked with what there is.
                self._ended.wait(max(0.0, min(self._due, default=1.0) - time.monotonic()))
            self._tail()

    def _tail(self) -> None:
        """Until sensors had the time to tell of the last job; power is read for long enough to know it when idle."""
        specs = [sensor.spec for sensor in self._sensors]
        wait = max((_TAIL_PERIODS * spec.period_s for spec in specs if spec.period_s < 1), default=0.0)
        until = time.monotonic() + max(wait, _IDLE_S if any(s.method == "integrated_power" for s in specs) else 0.0)
        while not self._ended.is_set() and not self._busy.is_set():
            left = until - time.monotonic()
            self._ended.wait(max(0.0, min(left, wait or left)))
            self._due = [0.0] * len(specs)
            self._round()
            if left <= 0:
                return

    def _round(self) -> None:
        for taken in self._woken():
            self._report(taken)
        now = time.monotonic()
        for index, sensor in enumerate(self._sensors):
            if self._due[index] > now:
                continue
            taken = self._read(index, fresh=self._fresh[index])
            if taken.fault and self._fresh[index]:
                # What a pause spoils is mended by the next reading.
                taken = self._read(index, fresh=True)
            self._report(taken)
            self._fresh[index] = False
            self._due[index] = now + self._pause(index, sensor, taken)

    def _pause(self, index: int, sensor: Sensor, taken: Taken) -> float:
        if taken.fault:
            self._patience[index] = min(2 * self._patience[index], _LONGEST_RETRY_S)
            return self._patience[index] / 2
        self._patience[index] = _RETRY_S
        coarse = sensor.spec.period_s >= _COARSE_S and taken.joules is not None
        wait = self._rhythms[index].wait(taken.after, taken.joules or 0.0) if coarse else _LEAST_S
        return max(wait, self._costs[index] * len(self._sensors) / _COST)


def seconds_slept() -> float:
    """How long this machine has slept since it started: what the clock that counts sleep is ahead of the other."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    # On macOS CLOCK_MONOTONIC goes on during sleep and Python's monotonic clock does not.
    return time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()
