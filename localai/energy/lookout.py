"""Whether this machine's sensors may have changed since they were last looked for: a file tree in, an inventory out.

A mains plug, a permission or a driver comes and goes while the daemon runs. What tells of it costs a few small files,
and is asked for only where an answer begins on a quiet machine.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from localai import sysfs
from localai.energy.battery import packs
from localai.energy.sensors import Inventory, find

_LEAST_S = 5.0
"""Seconds between two looks."""


class Lookout:
    """`look` gives the inventory anew where something has changed. Used from one thread at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        system: str = "",
        finding: Callable[[Path, str], Inventory] = find,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._system = system or platform.system()
        self._finding = finding
        self._clock = clock
        self._signs, self._at = self._read(), clock()

    def find(self) -> Inventory:
        """What there is now."""
        return self._finding(self._root, self._system)

    def look(self, *, lost: bool = False) -> Inventory | None:
        """What there is now, where that may have changed; `lost` says that a sensor has failed."""
        if self._clock() - self._at < _LEAST_S:
            return None
        self._at = self._clock()
        signs = self._read()
        if signs == self._signs and not lost:
            return None
        self._signs = signs
        return self.find()

    def _read(self) -> tuple[object, ...]:
        """What differs where sensors differ."""
        if self._system == "Darwin":
            import psutil

            pack = psutil.sensors_battery()
            return (pack is not None and pack.power_plugged,)
        zones = sorted((self._root / "sys/class/powercap").glob("intel-rapl:*/energy_uj"))
        boards = sorted((self._root / "sys/class/hwmon").glob("hwmon*")), (self._root / "dev/nvidia0").exists()
        batteries = [(path, sysfs.text(path / "status") == "Discharging") for path in packs(self._root)]
        return [(path, os.access(path, os.R_OK)) for path in zones], boards, batteries
