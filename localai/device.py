"""What this machine is: the operating system and its file tree enter, one frozen `Device` leaves.

Read once on demand, without polling and without vendor libraries. Knows nothing of engines and models.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from localai import cgroups, gpu, sysfs
from localai.gpu import Gpu

_X86_FEATURES = frozenset(
    (
        *("avx", "avx2", "avx_vnni", "bmi2", "f16c", "fma"),
        *("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
    )
)
_ARM_FEATURES = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_APPLE_FEATURES = {
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
_APPLE_NAMES = ("machdep.cpu.brand_string", "hw.memsize", "kern.hv_vmm_present", "hw.optional.arm64")


@dataclass(frozen=True, slots=True)
class Cpu:
    """`physical` and `logical` count cores that this process may use; `quota` is CPU time in cores, None for all."""

    model: str
    features: tuple[str, ...]
    physical: int
    logical: int
    quota: float | None

    @property
    def threads(self) -> int:
        """The most threads worth starting: physical cores, and no more than the quota keeps busy."""
        return self.physical if self.quota is None else max(1, min(self.physical, round(self.quota)))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `total` and `available` are already the smaller of the machine's and of `limit`, the control group's."""

    total: int
    available: int
    limit: int | None
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True)
class Device:
    """A machine as engines see it. `hypervisor` names the one below, '' on bare metal; `disk_free` is in bytes."""

    system: str
    kernel: str
    machine: str
    cpu: Cpu
    memory: Memory
    hypervisor: str
    disk_free: int
    gpus: tuple[Gpu, ...]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over what engine settings depend on; no host name, serial number or fill level."""
        cpu = self.cpu
        release = self.kernel.split(".")[:2]
        cores = [cpu.physical, cpu.logical, cpu.quota]
        gpus = [[card.vendor, card.name, card.driver] for card in self.gpus]
        facts = [self.system, self.machine, release, cpu.model, cpu.features, cores, gpus, bool(self.hypervisor)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look: the machine that runs this, unless told otherwise. `allowed` are the CPU numbers usable here."""

    root: Path = Path("/")
    system: str = field(default_factory=platform.system)
    kernel: str = field(default_factory=platform.release)
    machine: str = field(default_factory=platform.machine)
    allowed: frozenset[int] = field(default_factory=lambda: _affinity())


def inspect(disk: Path, host: Host | None = None) -> Device:
    """Describe the machine; `disk` is the folder, existing or not, whose file system's free bytes are told."""
    host = host or Host()
    if host.system == "Linux":
        cpu, memory, hypervisor, gpus = _linux(host)
    else:
        cpu, memory, hypervisor, gpus = _elsewhere(host)
    return Device(host.system, host.kernel, host.machine, cpu, memory, hypervisor, free_bytes(disk), gpus)


def memory_now(host: Host | None = None) -> Memory:
    """The memory alone: so quick that an event loop may ask."""
    host = host or Host()
    if host.system == "Linux":
        return _linux_memory(host.root, cgroups.limits(host.root))
    return _memory_elsewhere()


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write below `folder`, which need not exist yet."""
    place = folder.absolute()
    while not os.path.exists(place):
        place = place.parent
    return shutil.disk_usage(place).free


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


_Parts = tuple[Cpu, Memory, str, tuple[Gpu, ...]]


def _linux(host: Host) -> _Parts:
    root = host.root
    facts = sysfs.pairs(sysfs.text(root / "proc/cpuinfo"), ":")
    bounds = cgroups.limits(root)
    cpu = Cpu(_model(root, facts), _features(facts), _physical(host), max(1, len(host.allowed)), bounds.cpus)
    return cpu, _linux_memory(root, bounds), _hypervisor(root, facts), gpu.find(root)


def _linux_memory(root: Path, bounds: cgroups.Limits) -> Memory:
    kib = {name: int(value.split()[0]) for name, value in sysfs.pairs(sysfs.text(root / "proc/meminfo"), ":").items()}
    total, available = kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024
    return Memory(
        total=total if bounds.memory is None else min(total, bounds.memory),
        available=available if bounds.available is None else min(available, bounds.available),
        limit=bounds.memory,
        swap_total=kib.get("SwapTotal", 0) * 1024,
        swap_free=kib.get("SwapFree", 0) * 1024,
    )


def _model(root: Path, facts: dict[str, str]) -> str:
    """ARM kernels give no model name: the board's stands in, else the core's implementer and part number."""
    arm = f"ARM {facts.get('CPU implementer', '?')} {facts.get('CPU part', '?')}"
    return facts.get("model name") or sysfs.text(root / "proc/device-tree/model") or arm


def _features(facts: dict[str, str]) -> tuple[str, ...]:
    x86 = _X86_FEATURES.intersection(facts.get("flags", "").split())
    arm = {_ARM_FEATURES[word] for word in facts.get("Features", "").split() if word in _ARM_FEATURES}
    return tuple(sorted(x86 | arm))


def _physical(host: Host) -> int:
    cores = set()
    for number in host.allowed:
        topology = host.root / f"sys/devices/system/cpu/cpu{number}/topology"
        core = sysfs.text(topology / "core_id")
        cores.add((sysfs.text(topology / "physical_package_id"), core or f"alone {number}"))
    return max(1, len(cores))


def _hypervisor(root: Path, facts: dict[str, str]) -> str:
    """x86 kernels flag a hypervisor; elsewhere the firmware's product name gives a virtual machine away."""
    named = sysfs.text(root / "sys/hypervisor/type")
    dmi = root / "sys/class/dmi/id"
    product = sysfs.text(dmi / "product_name")
    flagged = "hypervisor" in facts.get("flags", "").split()
    virtual = any(word in product.lower() for word in ("virtual", "kvm", "qemu"))
    if named or flagged or virtual:
        return named or sysfs.text(dmi / "sys_vendor") or "unnamed"
    return ""


def _elsewhere(host: Host) -> _Parts:
    import psutil

    facts = _sysctl(host.root) if host.system == "Darwin" else {}
    silicon = host.system == "Darwin" and facts.get("hw.optional.arm64", "0") == "1"
    model = facts.get("machdep.cpu.brand_string") or platform.processor() or host.machine
    known = {word for name, word in _APPLE_FEATURES.items() if facts.get(name) == "1"}
    features = tuple(sorted(known | {"neon"})) if silicon else ()
    cpu = Cpu(model, features, psutil.cpu_count(logical=False) or 1, psutil.cpu_count() or 1, None)
    memory = _memory_elsewhere()
    gpus = (Gpu("apple", f"{model} GPU", int(facts.get("hw.memsize", memory.total)), "platform", "metal"),)
    return cpu, memory, "vmm" if facts.get("kern.hv_vmm_present") == "1" else "", gpus if silicon else ()


def _memory_elsewhere() -> Memory:
    import psutil

    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(ram.total, ram.available, None, swap.total, swap.free)


def _sysctl(root: Path) -> dict[str, str]:
    """Names that this macOS does not know are left out; the others are still printed."""
    command = [str(root / "usr/sbin/sysctl"), *_APPLE_NAMES, *_APPLE_FEATURES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    return sysfs.pairs(done.stdout, ":")
