"""NVIDIA boards through NVML: its Python binding enters, one sensor per board leaves.

The board's energy counter (millijoules) is used where it has one, else its power, integrated.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module, util
from typing import Any

from localai.energy.found import Absent, Found
from localai.energy.sensor import CounterSensor, PowerSensor, Sensor, Spec

_MILLI = 1e-3
_PERIOD_S = 0.1
"""How often drivers renew the counter."""


def find(library: Any = None) -> Found:
    """The boards that NVML knows; `library` is the module `pynvml`, imported where not given."""
    if library is None:
        if util.find_spec("pynvml") is None:
            return Found((), (Absent("NVIDIA", "nvidia-ml-py is not installed", "pip install nvidia-ml-py"),))
        library = import_module("pynvml")
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
    except library.NVMLError as error:
        return Found((), (Absent("NVIDIA", f"NVML does not start: {error}", ""),))
    sensors: list[Sensor] = []
    absent: list[Absent] = []
    for number in range(count):
        try:
            sensors.append(_board(library, number))
        except library.NVMLError as error:
            absent.append(Absent(f"NVIDIA board {number}", f"it reports neither energy nor power: {error}", ""))
    return Found(tuple(sensors), tuple(absent))


def _board(library: Any, number: int) -> Sensor:
    handle = library.nvmlDeviceGetHandleByIndex(number)
    name = library.nvmlDeviceGetName(handle)
    covers = f"graphics board ({name})"
    try:
        library.nvmlDeviceGetTotalEnergyConsumption(handle)
    except library.NVMLError:
        library.nvmlDeviceGetPowerUsage(handle)
        spec = Spec(
            id=f"nvml{number}.power",
            scope="gpu_board",
            method="integrated_power",
            period_s=_PERIOD_S,
            covers=covers,
            accuracy=0.1,
        )
        watts = partial(_asked, library, library.nvmlDeviceGetPowerUsage, handle)
        return PowerSensor(spec, lambda: watts() * _MILLI)
    spec = Spec(
        id=f"nvml{number}.energy",
        scope="gpu_board",
        method="counter",
        period_s=_PERIOD_S,
        covers=covers,
        accuracy=0.05,
    )
    return CounterSensor(spec, partial(_asked, library, library.nvmlDeviceGetTotalEnergyConsumption, handle), _MILLI)


def _asked(library: Any, function: Any, handle: Any) -> int:
    try:
        return int(function(handle))
    except library.NVMLError as error:
        raise OSError(str(error)) from error
