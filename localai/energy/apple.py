"""Apple silicon: the binding `zeus_apple_silicon` enters, one sensor over CPU, GPU, neural engine and memory leaves.

The counters behind it are Apple's own model of the chip's power, read without special rights.
"""

from __future__ import annotations

import platform
from importlib import import_module, util
from typing import Any

from localai.energy.found import Absent, Found
from localai.energy.sensor import CounterSensor, Spec

_PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj")
_MILLI = 1e-3


def find(system: str = "", monitor: Any = None) -> Found:
    """The chip's counters; `monitor` is an AppleEnergyMonitor, made where not given."""
    if (system or platform.system()) != "Darwin":
        return Found()
    if monitor is None:
        if util.find_spec("zeus_apple_silicon") is None:
            hint = "pip install zeus-apple-silicon (Apple silicon only)"
            return Found((), (Absent("Apple silicon", "zeus-apple-silicon is not installed", hint),))
        monitor = import_module("zeus_apple_silicon").AppleEnergyMonitor()
    first = monitor.get_cumulative_energy()
    parts = [part for part in _PARTS if getattr(first, part, None) is not None]
    if not parts:
        return Found((), (Absent("Apple silicon", "the chip reports no energy", ""),))
    covers = ", ".join(part.removesuffix("_mj").removesuffix("_total") for part in parts)
    spec = Spec(id="apple.soc", scope="soc", method="counter", period_s=0.1, covers=f"chip ({covers})", accuracy=0.1)

    def millijoules() -> int:
        now = monitor.get_cumulative_energy()
        return sum(int(getattr(now, part) or 0) for part in parts)

    return Found((CounterSensor(spec, millijoules, _MILLI),))
