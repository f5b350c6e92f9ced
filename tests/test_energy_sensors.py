"""Energy sensors over recorded trees and bindings: what is found, what it reads, and what it says when it cannot."""

from __future__ import annotations

import os
import plistlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localai.energy import apple, battery, hwmon, nvml, rapl
from localai.energy.lookout import Lookout
from localai.energy.sensor import CounterSensor, Spec
from localai.energy.sensors import Inventory, find
from localai.errors import SensorFault

WRAP = 262_143_328_850
ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}


def _tree(root: Path, files: dict[str, str | int]) -> Path:
    for name, content in files.items():
        path = root / "sys/class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def _rapl(root: Path, zones: dict[str, str]) -> Path:
    files: dict[str, str | int] = {}
    for zone, name in zones.items():
        here = f"powercap/{zone}"
        files |= {f"{here}/name": name, f"{here}/energy_uj": 1_000_000, f"{here}/max_energy_range_uj": WRAP}
    return _tree(root, files)


@pytest.mark.parametrize(
    ("zones", "ids"),
    [
        pytest.param(
            ZONES,
            ["rapl.package-0.0", "rapl.package-1.1", "rapl.dram.0:1", "rapl.dram.1:0"],
            id="two sockets, no part and no whole twice",
        ),
        pytest.param({"intel-rapl:0": "psys"}, ["rapl.psys.0"], id="the platform alone"),
        pytest.param({}, [], id="a virtual machine"),
    ],
)
def test_rapl_counts_nothing_twice(tmp_path: Path, zones: dict[str, str], ids: list[str]) -> None:
    found = rapl.find(_rapl(tmp_path, zones))
    assert [sensor.spec.id for sensor in found.sensors] == ids
    assert bool(found.absent) == (not ids)


def test_rapl_wraps_around(tmp_path: Path) -> None:
    sensor = rapl.find(_rapl(tmp_path, {"intel-rapl:0": "package-0"})).sensors[0]
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    joules = []
    for moment, value in enumerate((WRAP - 30_000_000, WRAP - 10_000_000, 5_000_000)):
        counter.write_text(str(value))
        joules.append(sensor.read(float(moment)))
    assert joules == pytest.approx([0.0, 20.0, 35.0])


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_rapl_without_permission_says_how_to_get_it(tmp_path: Path) -> None:
    root = _rapl(tmp_path, {"intel-rapl:0": "package-0"})
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    found = rapl.find(root)
    assert not found.sensors
    assert "chmod" in found.absent[0].hint


SPEC = Spec(id="any", scope="cpu_package", method="counter", period_s=0.001, covers="")


def _refuse(error: OSError) -> Callable[[], int]:
    def read() -> int:
        raise error

    return read


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param([500_000, 400_000], "went backwards", id="backwards"),
        pytest.param([0, 90_000_000_000], "jumped", id="a jump"),
    ],
)
def test_a_counter_that_lies_is_not_believed(values: Sequence[int], says: str) -> None:
    rest = iter([*values, values[-1] + 1_000_000])
    sensor = CounterSensor(SPEC, lambda: next(rest), 1e-6, 0)
    sensor.read(0.0)
    with pytest.raises(SensorFault, match=says):
        sensor.read(1.0)
    assert sensor.read(2.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("error", "says"), [(PermissionError(), "no longer be read"), (FileNotFoundError(), "is gone")], ids=str
)
def test_a_sensor_that_vanishes_says_so(error: OSError, says: str) -> None:
    with pytest.raises(SensorFault, match=says):
        CounterSensor(SPEC, _refuse(error), 1e-6).read(0.0)


class Recorded:
    """NVML's binding over recorded boards: the first counts energy, the second knows its power only."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules: Sequence[int], milliwatts: Sequence[int]) -> None:
        self._energy, self._power = iter(millijoules), iter(milliwatts)

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"board {handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return self._next(self._energy if handle == 0 else iter(()))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return self._next(self._power)

    def _next(self, values: Any) -> int:
        for value in values:
            return int(value)
        raise self.NVMLError("Not Supported")


def test_nvml_counts_energy_or_integrates_power() -> None:
    counter, power = nvml.find(Recorded([0, 1000, 4000], [0, 20_000, 40_000])).sensors
    assert (counter.spec.method, power.spec.method) == ("counter", "integrated_power")
    assert [counter.read(0.0), counter.read(0.1)] == pytest.approx([0.0, 3.0])
    assert [power.read(0.0), power.read(0.1)] == pytest.approx([0.0, 3.0])
    with pytest.raises(SensorFault, match="gone"):
        counter.read(0.2)


def test_apple_silicon_sums_the_parts_that_there_are() -> None:
    counted = iter([(10, 5), (10, 5), (1010, 505)])

    def read() -> Any:
        cpu, gpu = next(counted)
        return SimpleNamespace(cpu_total_mj=cpu, gpu_mj=gpu, ane_mj=None)

    (sensor,) = apple.find("Darwin", SimpleNamespace(get_cumulative_energy=read)).sensors
    assert "cpu, gpu" in sensor.spec.covers
    assert [sensor.read(0.0), sensor.read(1.0)] == pytest.approx([0.0, 1.5])


@pytest.mark.parametrize(
    ("files", "method"),
    [
        pytest.param({"power1_average": 30_000_000}, "integrated_power", id="power"),
        pytest.param({"energy1_input": 5_000_000, "power1_input": 1}, "counter", id="energy"),
        pytest.param({"power1_input": 1, "device/mem_info_vram_total": 512 << 20}, None, id="in the processor"),
        pytest.param({}, None, id="silent"),
    ],
)
def test_boards_in_hwmon(tmp_path: Path, files: dict[str, int], method: str | None) -> None:
    here = {f"hwmon/hwmon3/{name}": value for name, value in files.items()}
    found = hwmon.find(_tree(tmp_path, {"hwmon/hwmon3/name": "amdgpu", "hwmon/hwmon0/name": "nvme", **here}))
    assert [sensor.spec.method for sensor in found.sensors] == ([method] if method else [])
    assert bool(found.absent) == (method is None)


@pytest.mark.parametrize(
    ("status", "files", "watts"),
    [
        pytest.param("Discharging", {"power_now": 12_000_000}, 12.0, id="power"),
        pytest.param("Discharging", {"current_now": 1_000_000, "voltage_now": 15_000_000}, 15.0, id="current"),
        pytest.param("Charging", {"power_now": 12_000_000}, None, id="charging"),
        pytest.param("Discharging", {}, None, id="silent"),
    ],
)
def test_the_battery_counts_while_it_discharges(
    tmp_path: Path, status: str, files: dict[str, int], watts: float | None
) -> None:
    here = {f"power_supply/BAT0/{name}": value for name, value in files.items()}
    root = _tree(tmp_path, {"power_supply/BAT0/type": "Battery", "power_supply/BAT0/status": status, **here})
    found = battery.find(root, "Linux")
    if watts is None:
        assert not found.sensors
        assert found.absent[0].why
        return
    (sensor,) = found.sensors
    assert [sensor.read(0.0), sensor.read(2.0)] == pytest.approx([0.0, 2 * watts])
    (root / "sys/class/power_supply/BAT0/status").write_text("Charging\n")
    with pytest.raises(SensorFault):
        sensor.read(3.0)


@pytest.mark.parametrize(
    ("first", "second", "watts"),
    [
        pytest.param(("Discharging", 9_000_000), ("Not charging", 0), 9.0, id="one rests"),
        pytest.param(("Full", None), ("Discharging", 7_000_000), 7.0, id="one is full and says no more"),
        pytest.param(("Discharging", 9_000_000), ("Discharging", 3_000_000), 12.0, id="both"),
        pytest.param(("Discharging", 9_000_000), ("Charging", 4_000_000), 5.0, id="one charges the other"),
        pytest.param(("Discharging", 1_000_000), ("Charging", 40_000_000), None, id="the mains charge one"),
        pytest.param(("Not charging", 0), ("Full", 0), None, id="on mains"),
    ],
)
def test_two_batteries_are_one_source(
    tmp_path: Path, first: tuple[str, int | None], second: tuple[str, int | None], watts: float | None
) -> None:
    files: dict[str, str | int] = {}
    for name, (status, power) in {"BAT0": first, "BAT1": second}.items():
        files |= {f"power_supply/{name}/type": "Battery", f"power_supply/{name}/status": status}
        files |= {} if power is None else {f"power_supply/{name}/power_now": power}
    found = battery.find(_tree(tmp_path, files), "Linux")
    assert [sensor.spec.scope for sensor in found.sensors] == ([] if watts is None else ["system_battery"])
    for sensor in found.sensors:
        assert [sensor.read(0.0), sensor.read(2.0)] == pytest.approx([0.0, 2 * (watts or 0.0)])


def test_sensors_are_looked_for_again_where_something_has_changed(tmp_path: Path) -> None:
    now = [0.0]
    root = _tree(tmp_path, {"power_supply/BAT0/type": "Battery", "power_supply/BAT0/status": "Full"})
    lookout = Lookout(root, "Linux", lambda root, _: Inventory(battery.find(root, "Linux").sensors, ()), lambda: now[0])
    assert not lookout.find().sensors
    now[0] = 10.0
    assert lookout.look() is None
    status = root / "sys/class/power_supply/BAT0/status"
    status.write_text("Discharging")
    (status.parent / "power_now").write_text("5000000")
    now[0] = 11.0
    assert lookout.look() is None, "not so soon again"
    now[0] = 20.0
    found = lookout.look()
    assert found is not None
    assert len(found.sensors) == 1
    now[0] = 30.0
    assert lookout.look() is None
    status.write_text("Charging")
    now[0] = 40.0
    gone = lookout.look()
    assert gone is not None
    assert not gone.sensors
    now[0] = 50.0
    assert lookout.look(lost=True) is not None


def test_the_battery_of_a_mac() -> None:
    pack = {"ExternalConnected": False, "Voltage": 12_000, "InstantAmperage": 2**64 - 1_000}
    (sensor,) = battery.find(Path("/"), "Darwin", lambda: plistlib.dumps([pack])).sensors
    assert [sensor.read(0.0), sensor.read(1.0)] == pytest.approx([0.0, 12.0])
    assert not battery.find(Path("/"), "Darwin", lambda: b"").sensors


@pytest.mark.parametrize(
    ("zones", "on_gpu", "quality"),
    [
        pytest.param({"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"}, False, "measured", id="all of a CPU"),
        pytest.param({"intel-rapl:0": "package-0"}, False, "measured_partial", id="no memory"),
        pytest.param({"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"}, True, "measured_partial", id="no board"),
        pytest.param({}, False, "modelled", id="nothing"),
    ],
)
def test_quality_tells_what_is_covered(tmp_path: Path, zones: dict[str, str], on_gpu: bool, quality: str) -> None:
    assert find(_rapl(tmp_path, zones), "Linux").quality(on_gpu=on_gpu) == quality
