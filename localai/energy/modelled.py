"""Joules where no sensor is: CPU time of the engines and bytes that they moved in, watts times seconds out.

CPU time is a real counter of the kernel; the watts are typical ones, or those that the user has measured.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from threading import Lock

import psutil

from localai.energy.draw import typical_watts
from localai.energy.sensor import Spec

JOULES_PER_BYTE = 0.15e-9
"""What reading a byte of DDR memory takes, within a factor of two."""
_TICK_S = 0.01


class ProcessTimes:
    """CPU seconds that some processes have taken since they were added; those that end keep what they took.

    Any thread may ask; an answer is good for `_TICK_S`, as the kernel counts no finer.
    """

    def __init__(self) -> None:
        self._running: dict[int, tuple[psutil.Process, float, float]] = {}
        self._ended = 0.0
        self._lock = Lock()
        self._total, self._read_at = 0.0, -1.0

    def add(self, pid: int) -> None:
        """Count this process from now on; one that is gone already counts nothing."""
        try:
            process = psutil.Process(pid)
            taken = _seconds(process)
        except psutil.Error:
            return
        with self._lock:
            self._running[pid] = (process, taken, taken)

    def read(self) -> float:
        """Seconds, all added processes together; never less than before."""
        with self._lock:
            if time.monotonic() - self._read_at > _TICK_S / 4:
                self._total = self._ended + sum([self._taken(pid) for pid in tuple(self._running)])
                self._read_at = time.monotonic()
            return self._total

    def _taken(self, pid: int) -> float:
        process, first, last = self._running[pid]
        try:
            now = max(last, _seconds(process))
        except psutil.Error:
            self._ended += last - first
            del self._running[pid]
            return last - first
        self._running[pid] = (process, first, now)
        return now - first


def _seconds(process: psutil.Process) -> float:
    """CPU time so far. Raises psutil.Error where the process has gone."""
    if not psutil.LINUX:
        times = process.cpu_times()
        return float(times.user + times.system)
    try:
        # The kernel's id for the CPU clock of another process; /proc counts in ticks, too coarse for short answers.
        return time.clock_gettime((~process.pid << 3) | 2)
    except OSError as error:
        raise psutil.NoSuchProcess(process.pid) from error


class CpuTimeSensor:
    """CPU time in the guise of a sensor; its `joules` are seconds."""

    spec = Spec(
        id="cpu_time",
        scope="processes",
        method="counter",
        period_s=_TICK_S,
        covers="CPU time of the engines' processes",
        accuracy=0.0,
    )

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds

    def read(self, now: float) -> float:
        """Seconds of CPU time, all engines together."""
        return self._seconds()


class ModelledSensor:
    """CPU seconds times watts, and bytes times joules; `watts` 0 takes what is typical of this kind of machine."""

    def __init__(self, seconds: Callable[[], float], watts: float = 0.0, machine: str = "") -> None:
        self._seconds = seconds
        self._watts = watts or typical_watts(machine or platform.machine())
        self._bytes = 0.0
        basis = f"{self._watts:g} W per busy core ({'configured' if watts else 'typical'})"
        self.spec = Spec(
            id="model",
            scope="processes",
            method="model",
            period_s=_TICK_S,
            covers=f"CPU time of the engines x {basis}, and bytes moved x {JOULES_PER_BYTE * 1e12:g} pJ",
            accuracy=0.3 if watts else 0.6,
        )

    def moved(self, count: float) -> None:
        """Note bytes of weights and cache that a step has read."""
        self._bytes += count

    def read(self, now: float) -> float:
        """Joules, as far as this model knows."""
        return self._seconds() * self._watts + self._bytes * JOULES_PER_BYTE
