"""How busy the machine was while something was measured, and how much of that was not the measurement's own.

Reads /proc, so Linux only; elsewhere `meter` gives readings without figures, and no round can be judged by them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: daemons that leave their parents become children of this process, and so stay its own."""


@dataclass(frozen=True, slots=True)
class Load:
    """Means over `wall_s` seconds, in cores; `pressure` is the share of time that some task waited for a core.

    `foreign` is what other programs burnt; None where this system does not tell.
    """

    wall_s: float
    busy: float | None = None
    own: float | None = None
    foreign: float | None = None
    steal: float | None = None
    pressure: float | None = None
    load1: float | None = None

    def disturbed(self, most: float) -> bool:
        """True where other programs, or other guests of the same host, took more than `most` cores."""
        return max(self.foreign or 0.0, self.steal or 0.0) > most


@dataclass(frozen=True, slots=True)
class _Counters:
    at: float
    busy: float
    steal: float
    pressure: float
    own: float


class Meter:
    """Starts counting when made; `read` gives the means since then."""

    def __init__(self) -> None:
        self._before = _counters()

    def read(self) -> Load:
        now, then = _counters(), self._before
        if now is None or then is None:
            return Load(0.0)
        wall = now.at - then.at
        busy, own = (now.busy - then.busy) / wall, (now.own - then.own) / wall
        return Load(
            wall_s=round(wall, 2),
            busy=round(busy, 3),
            own=round(own, 3),
            foreign=round(max(0.0, busy - own), 3),
            steal=round((now.steal - then.steal) / wall, 3),
            pressure=round((now.pressure - then.pressure) / wall, 3),
            load1=round(os.getloadavg()[0], 2),
        )


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a running process, in nanosecond steps where the kernel tells; else in clock ticks."""
    tasks = Path(f"/proc/{process.pid}/task")
    found = [path.read_text(encoding="ascii").split()[0] for path in tasks.glob("*/schedstat")]
    if found:
        return sum(int(value) for value in found) / 1e9
    times = process.cpu_times()
    return times.user + times.system


def adopt_orphans() -> None:
    """Keep daemons that detach themselves among this process's descendants."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _counters() -> _Counters | None:
    if sys.platform != "linux":
        return None
    tick = os.sysconf("SC_CLK_TCK")
    first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    user, nice, system, _, _, irq, softirq, steal = (int(v) / tick for v in first.split()[1:9])
    return _Counters(time.monotonic(), user + nice + system + irq + softirq, steal, _pressure(), _own())


def _pressure() -> float:
    path = Path("/proc/pressure/cpu")
    if not path.exists():
        return 0.0
    some = path.read_text(encoding="ascii").split("\n", 1)[0]
    return int(some.rpartition("total=")[2]) / 1e6


def _own() -> float:
    """CPU seconds of this process and its descendants, those included that have ended and were waited for."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
