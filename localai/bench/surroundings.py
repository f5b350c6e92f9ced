"""The machine around a run: what it is, which versions and sensors, and what it draws with nothing to do.

Reads sensors and counters; leaves plain data in which nothing names the user or the machine.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

from localai import __version__, sysfs
from localai.bench.rows import Idle
from localai.device import Device
from localai.energy.sensor import Sensor
from localai.energy.sensors import Inventory
from localai.errors import SensorFault

_PACKAGES = ("llama-cpp-python", "onnxruntime", "mlx")
_EVERY_S = 0.5
_UNSEEN_S = 1.0


def describe(device: Device, inventory: Inventory) -> dict[str, Any]:
    """Device, versions and sensors, as every report carries them."""
    return {
        "device": {
            "system": device.system,
            "machine": device.machine,
            "cpu": device.cpu.model,
            "cores": device.cpu.physical,
            "features": list(device.cpu.features),
            "memory_bytes": device.memory.total,
            "gpus": [card.name for card in device.gpus],
            "virtual": bool(device.hypervisor),
            "fingerprint": device.fingerprint,
        },
        "versions": {"localai": __version__, "python": platform.python_version(), **_versions()},
        "sensors": [msgspec.to_builtins(sensor.spec) for sensor in inventory.sensors],
        "no_sensor": [f"{absent.what}: {absent.why}" for absent in inventory.absent],
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def idle(when: str, sensors: Sequence[Sensor], seconds: float) -> Idle:
    """Watch the sensors for `seconds`, in which nothing should run; without any, only how busy others are, and shortly.

    A sensor that cannot be read in that time has no watts, and the reason stands beside it.
    """
    seconds = seconds if sensors else min(seconds, _UNSEEN_S)
    begun, cpu = time.monotonic(), busy_seconds()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    faults: dict[str, str] = {}
    while True:
        now = time.monotonic()
        for sensor in sensors:
            try:
                value = sensor.read(now)
            except SensorFault as fault:
                faults[sensor.spec.id] = fault.message
                continue
            first.setdefault(sensor.spec.id, value)
            last[sensor.spec.id] = value
        time.sleep(_EVERY_S)
        if now >= begun + seconds:
            break
    took = time.monotonic() - begun
    watts = {name: None if name in faults else (last[name] - value) / took for name, value in first.items()}
    return Idle(
        when=when,
        seconds=round(took, 2),
        watts={**dict.fromkeys(faults), **watts},
        busy_cores=round((busy_seconds() - cpu) / took, 3),
        reason="; ".join(faults.values()) or ("" if sensors else "no energy sensor here"),
    )


def peak_bytes(engine: Mapping[str, Any]) -> int | None:
    """The most memory that an engine of `localai status` has had resident; where the system keeps no mark, has now."""
    try:
        facts = sysfs.pairs(Path(f"/proc/{engine['pid']}/status").read_text(), ":")
        return 1024 * int(facts["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        return engine.get("resident_bytes")


def busy_seconds() -> float:
    """CPU seconds that all programs of this machine have taken since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
