"""Linux powercap (RAPL): a file tree enters, one counter per CPU package and memory controller leaves.

Sub-zones of a package (core, uncore) are parts of it and psys is a superset, so that neither is added to packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from localai import sysfs
from localai.energy.figures import Scope
from localai.energy.found import Absent, Found
from localai.energy.sensor import CounterSensor, Sensor, Spec

_ZONES = "sys/class/powercap"
_MICRO = 1e-6
_ALLOW = (
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj "
    "/sys/class/powercap/intel-rapl:*:*/energy_uj (until the next boot; a tmpfiles.d rule makes it last. "
    "Any program can then see the power draw, which has been used to spy on other users)"
)


def find(root: Path) -> Found:
    """Packages and DRAM; where the platform offers no package, its psys zone. Several sockets are several sensors."""
    zones = list(_zones(root))
    if not zones:
        return Found((), (Absent("RAPL", "this kernel offers no powercap zones (virtual machines seldom do)", ""),))
    packages = [zone for zone in zones if zone[1].startswith("package")]
    memory = [zone for zone in zones if zone[1].startswith("dram")]
    chosen = [*packages, *memory] if packages else [zone for zone in zones if zone[1] == "psys"]
    sensors: list[Sensor] = []
    absent: list[Absent] = []
    for path, name in chosen:
        try:
            _number(path / "energy_uj")
        except PermissionError:
            absent.append(Absent(f"RAPL {name}", "only the administrator may read it", _ALLOW))
        except (OSError, ValueError):
            absent.append(Absent(f"RAPL {name}", "its counter cannot be read", ""))
        else:
            sensors.append(_sensor(path, name))
    return Found(tuple(sensors), tuple(absent))


def _zones(root: Path) -> Iterator[tuple[Path, str]]:
    """Path and name of each zone. The mmio interface shows the same packages a second time and is left out."""
    for path in sorted((root / _ZONES).glob("intel-rapl:*")):
        name = sysfs.text(path / "name")
        if name:
            yield path, name


def _sensor(path: Path, name: str) -> CounterSensor:
    scope: Scope = "dram" if name.startswith("dram") else "platform" if name == "psys" else "cpu_package"
    covers = {"dram": "memory modules", "platform": "the whole board", "cpu_package": "processor package"}[scope]
    zone = path.name.removeprefix("intel-rapl:")
    spec = Spec(
        id=f"rapl.{name}.{zone}",
        scope=scope,
        method="counter",
        period_s=0.001,
        covers=f"{covers} ({name})",
        accuracy=0.05,
    )
    wraps_at = sysfs.number(path / "max_energy_range_uj") or 2**32
    return CounterSensor(spec, partial(_number, path / "energy_uj"), _MICRO, wraps_at)


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
