"""What the control groups around this process allow it: a file tree enters, CPU and memory limits leave.

Follows cgroups(7): the process's group in `/proc/self/cgroup`, the mount in `/proc/self/mountinfo`; every group from
the process's own up to the mount's root may set a limit, and the smallest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localai import sysfs

_NO_LIMIT = 1 << 60  # version 1 writes "no limit" as the largest multiple of the page size


@dataclass(frozen=True, slots=True)
class Limits:
    """`cpus`: cores' worth of CPU time per period; `memory`, `available`: bytes, in all and left. None: no limit."""

    cpus: float | None
    memory: int | None
    available: int | None


def limits(root: Path) -> Limits:
    """Read versions 1 and 2, and hybrids of both, under the file system root `root`."""
    cpus: list[float] = []
    memory: list[int] = []
    available: list[int] = []
    for controller, group in _groups(root):
        if controller in ("", "cpu") and (share := _cpus(group, controller)) is not None:
            cpus.append(share)
        if controller in ("", "memory") and (limit := _memory(group, controller)) is not None:
            memory.append(limit)
            available.append(max(0, limit - _in_use(group, controller)))
    return Limits(min(cpus, default=None), min(memory, default=None), min(available, default=None))


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Each group directory around the process with its controller, '' standing for version 2."""
    mounts = _mounts(root)
    for line in sysfs.text(root / "proc/self/cgroup").splitlines():
        _, controllers, inside = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in mounts:
                continue
            top, shown_from = mounts[controller]
            if inside == shown_from or inside.startswith(shown_from.rstrip("/") + "/"):
                inside = inside[len(shown_from.rstrip("/")) :]
            group = top / inside.lstrip("/")
            yield from ((controller, path) for path in (group, *group.parents) if path.is_relative_to(top))


def _mounts(root: Path) -> dict[str, tuple[Path, str]]:
    """Controller ('' for version 2) to the mount's directory and the group that it shows as its root."""
    found: dict[str, tuple[Path, str]] = {}
    for line in sysfs.text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        place = (root / fields[4].lstrip("/"), fields[3])
        for controller in [""] if kind[0] == "cgroup2" else kind[2].split(","):
            found.setdefault(controller, place)
    return found


def _cpus(group: Path, controller: str) -> float | None:
    if controller:
        quota = sysfs.number(group / "cpu.cfs_quota_us")
        period = sysfs.number(group / "cpu.cfs_period_us")
    else:
        words = sysfs.text(group / "cpu.max").split()
        numbers = [int(word) if word.isdecimal() else None for word in words]
        quota, period = numbers if len(numbers) == 2 else (None, None)
    return quota / period if quota and period and quota > 0 else None


def _memory(group: Path, controller: str) -> int | None:
    names = ("memory.limit_in_bytes",) if controller else ("memory.max", "memory.high")
    values = [value for name in names if (value := sysfs.number(group / name)) is not None and value < _NO_LIMIT]
    return min(values, default=None)


def _in_use(group: Path, controller: str) -> int:
    """Bytes charged to the group that it could not give back at once: inactive page cache does not count."""
    used = sysfs.number(group / ("memory.usage_in_bytes" if controller else "memory.current")) or 0
    stat = sysfs.pairs(sysfs.text(group / "memory.stat"), " ")
    return max(0, used - int(stat.get("total_inactive_file" if controller else "inactive_file", "0")))
