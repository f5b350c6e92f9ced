"""Battery discharge: Linux's power_supply tree or macOS's `ioreg` enters, a slow sensor of the whole machine leaves.

Screen and disks count too, and only while nothing charges. Good for minutes of work, too coarse for short answers.
"""

from __future__ import annotations

import platform
import plistlib
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from localai import sysfs
from localai.energy.found import Absent, Found
from localai.energy.sensor import PowerSensor, Spec

_IOREG = ("/usr/sbin/ioreg", "-rn", "AppleSmartBattery", "-a")
_PERIOD_S = 10.0


def find(root: Path, system: str = "", ioreg: Callable[[], bytes] | None = None) -> Found:
    """The battery while it discharges; on mains it says nothing about the machine."""
    if (system or platform.system()) == "Darwin":
        return _mac(ioreg or _ioreg)
    if not packs(root):
        return Found((), (Absent("battery", "there is none", ""),))
    try:
        _discharge(root)
    except (OSError, ValueError) as error:
        return Found((), (Absent("battery", str(error), "it can be read while it discharges"),))
    return Found((PowerSensor(_spec("battery"), partial(_discharge, root), 3 * _PERIOD_S),))


def packs(root: Path) -> list[Path]:
    """The machine's own batteries in Linux's tree; a mouse's is none of them."""
    found = sorted((root / "sys/class/power_supply").glob("*"))
    return [p for p in found if sysfs.text(p / "type") == "Battery" and sysfs.text(p / "scope") != "Device"]


def _spec(name: str) -> Spec:
    return Spec(
        id=name,
        scope="system_battery",
        method="integrated_power",
        period_s=_PERIOD_S,
        covers="the whole machine, screen included, while it runs on the battery",
        accuracy=0.1,
    )


def _discharge(root: Path) -> float:
    """Watts out of all packs together, those that rest left out. Raises OSError where none comes out."""
    total, discharges = 0.0, False
    for path in packs(root):
        status = sysfs.text(path / "status")
        if status == "Discharging":
            discharges = True
            total += _watts(path)
        elif status == "Charging":
            total -= _watts(path)
    if not discharges or total < 0:
        raise OSError("it is not discharging")
    return total


def _watts(path: Path) -> float:
    """Of one pack, without a sign, which drivers give or leave out. Raises OSError where it tells none."""
    power = sysfs.number(path / "power_now")
    if power is not None:
        return abs(power) * 1e-6
    current, voltage = sysfs.number(path / "current_now"), sysfs.number(path / "voltage_now")
    if current is None or voltage is None:
        raise OSError("it reports no power")
    return abs(current) * voltage * 1e-12


def _mac(ioreg: Callable[[], bytes]) -> Found:
    try:
        _mac_watts(ioreg)
    except (OSError, ValueError) as error:
        return Found((), (Absent("battery", str(error), "it can be read while it discharges"),))
    return Found((PowerSensor(_spec("battery"), partial(_mac_watts, ioreg), 3 * _PERIOD_S),))


def _mac_watts(ioreg: Callable[[], bytes]) -> float:
    try:
        found: Any = plistlib.loads(ioreg() or b"<plist><array/></plist>")
    except (plistlib.InvalidFileException, ExpatError) as error:
        raise OSError("ioreg's answer cannot be read") from error
    if not found:
        raise OSError("there is none")
    pack = found[0]
    if pack.get("ExternalConnected") or "Voltage" not in pack:
        raise OSError("it is not discharging")
    amperes = pack.get("InstantAmperage", pack.get("Amperage", 0))
    # A negative number that ioreg prints as an unsigned one.
    amperes -= 2**64 if amperes >= 2**63 else 0
    return abs(float(amperes)) * float(pack["Voltage"]) * 1e-6


def _ioreg() -> bytes:
    try:
        return subprocess.run(_IOREG, capture_output=True, check=False, timeout=5).stdout
    except subprocess.TimeoutExpired as error:
        raise OSError("ioreg does not answer") from error
