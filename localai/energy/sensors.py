"""Which energy sensors this machine has: a file tree and installed bindings enter, disjoint sensors leave.

No part of the machine is counted twice; what cannot be read is listed with the reason and what to do.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai.energy import apple, battery, hwmon, nvml, rapl
from localai.energy.figures import Quality, Scope
from localai.energy.found import Absent, Found
from localai.energy.sensor import Sensor
from localai.gpu import Gpu

_BOARD = 2 << 30
_WHOLE: frozenset[Scope] = frozenset(("soc", "platform", "system_battery"))


@dataclass(frozen=True, slots=True)
class Inventory:
    """The sensors in use, disjoint, and all others with the reason."""

    sensors: tuple[Sensor, ...]
    absent: tuple[Absent, ...]

    @property
    def scope(self) -> tuple[Scope, ...]:
        return tuple(sorted({sensor.spec.scope for sensor in self.sensors}))

    def quality(self, *, on_gpu: bool) -> Quality:
        """How far these sensors cover an engine that computes on the CPU, or on a GPU."""
        scope = set(self.scope)
        if not scope:
            return "modelled"
        boards = not on_gpu or "gpu_board" in scope or bool(scope & _WHOLE)
        processor = bool(scope & _WHOLE) or {"cpu_package", "dram"} <= scope
        return "measured" if boards and processor else "measured_partial"


def find(root: Path = Path("/"), system: str = "", library: Any = None) -> Inventory:
    """Look at every source once; `library` stands in for NVML's binding. Changes nothing."""
    system = system or platform.system()
    boards = [nvml.find(library), hwmon.find(root)]
    chip = [apple.find(system)] if system == "Darwin" else [rapl.find(root)]
    pack = battery.find(root, system)
    sensors = tuple(sensor for found in (*chip, *boards) for sensor in found.sensors)
    absent = tuple(reason for found in (*chip, *boards, pack) for reason in found.absent)
    if any(sensor.spec.scope == "platform" for sensor in sensors):
        sensors = tuple(sensor for sensor in sensors if sensor.spec.scope == "platform")
    if not sensors:
        sensors = pack.sensors
    elif pack.sensors:
        absent = (*absent, Absent("battery", "finer sensors are used instead", ""))
    return Inventory(sensors, absent)


def has_board(gpus: Sequence[Gpu]) -> bool:
    """Whether one of them is a board of its own, which the processor's counters do not cover."""
    return any(gpu.vendor == "nvidia" or (gpu.vendor == "amd" and (gpu.memory_bytes or 0) >= _BOARD) for gpu in gpus)


def nothing() -> Inventory:
    """A machine without sensors."""
    return Inventory(Found().sensors, ())
