"""Graphics boards that report through Linux hwmon (AMD, Intel): a file tree enters, one sensor per board leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from localai import sysfs
from localai.energy.found import Absent, Found
from localai.energy.sensor import CounterSensor, PowerSensor, Sensor, Spec

_DRIVERS = ("amdgpu", "i915", "xe")
_MICRO = 1e-6
_OWN_MEMORY = 2 << 30
"""Bytes of video memory from which on a graphics unit is taken for a board of its own, not a part of the processor."""


def find(root: Path) -> Found:
    """One sensor per board. Units inside a processor are left out: its package counter has them already."""
    sensors: list[Sensor] = []
    absent: list[Absent] = []
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = sysfs.text(path / "name")
        if name not in _DRIVERS:
            continue
        memory = sysfs.number(path / "device/mem_info_vram_total")
        if memory is not None and memory < _OWN_MEMORY:
            absent.append(Absent(f"{name} {path.name}", "it is a part of the processor, whose counter covers it", ""))
            continue
        sensor = _sensor(path, name)
        if sensor is None:
            absent.append(Absent(f"{name} {path.name}", "its driver reports neither energy nor power", ""))
        else:
            sensors.append(sensor)
    return Found(tuple(sensors), tuple(absent))


def _sensor(path: Path, name: str) -> Sensor | None:
    covers = f"graphics board ({name}, {path.name})"
    energy = path / "energy1_input"
    if sysfs.number(energy) is not None:
        spec = Spec(id=f"{path.name}.energy", scope="gpu_board", method="counter", period_s=0.1, covers=covers)
        return CounterSensor(spec, partial(_number, energy), _MICRO)
    for file in (path / "power1_average", path / "power1_input"):
        if sysfs.number(file) is not None:
            spec = Spec(
                id=f"{path.name}.{file.name}",
                scope="gpu_board",
                method="integrated_power",
                period_s=0.1,
                covers=covers,
                accuracy=0.1,
            )
            return PowerSensor(spec, partial(_watts, file))
    return None


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _watts(path: Path) -> float:
    return _number(path) * _MICRO
