"""Whether this machine runs on its battery, and what that changes: settings enter, thriftier ones leave."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path

from localai import sysfs
from localai.config import Config
from localai.energy.battery import packs

_KEEP_S = 10.0
"""Seconds for which an answer holds."""


class PowerSource:
    """Asks the system at most every ten seconds, and only when somebody wants to know."""

    def __init__(self, root: Path = Path("/"), system: str = "") -> None:
        self._root = root
        self._system = system or platform.system()
        self._asked, self._last = -_KEEP_S, False

    @property
    def on_battery(self) -> bool:
        """False where the machine has no battery."""
        if time.monotonic() - self._asked >= _KEEP_S:
            self._last, self._asked = self._look(), time.monotonic()
        return self._last

    def _look(self) -> bool:
        if self._system != "Linux":
            import psutil

            found = psutil.sensors_battery()
            return found is not None and found.power_plugged is False
        return any(sysfs.text(path / "status") == "Discharging" for path in packs(self._root))


class Saver:
    """What `on_battery`, `battery_model` and `battery_joules` ask for, while the machine runs on its battery."""

    def __init__(self, config: Config, source: PowerSource) -> None:
        self._config = config
        self._source = source

    @property
    def saving(self) -> bool:
        return self._config.on_battery == "frugal" and self._source.on_battery

    def eased(self) -> tuple[Config, str]:
        """The settings that hold now, and what the answer's reason says of them, '' where nothing changes."""
        if not self.saving:
            return self._config, ""
        model = self._config.battery_model or self._config.default_model
        return replace(self._config, policy="frugal", default_model=model), "on battery: frugal"

    def limit(self, asked: float | None) -> float | None:
        """Joules for one answer: what was asked for, and on battery no more than `battery_joules`."""
        most = self._config.battery_joules
        if not (most and self.saving):
            return asked
        return most if asked is None else min(asked, most)
