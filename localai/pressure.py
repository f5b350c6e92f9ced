"""How hard the system works for memory and disks: the kernel's pressure stall information, as numbers.

A file tree enters; shares of time in percent leave. Linux since 4.20, where switched on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localai import sysfs


@dataclass(frozen=True, slots=True)
class Pressure:
    """Percent of the last 10 s in which `some`, or all (`full`), of the work waited for the resource."""

    resource: str
    some: float
    full: float


def pressure(root: Path = Path("/")) -> tuple[Pressure, ...]:
    """Of memory and of disks; () where the kernel does not tell."""
    found = []
    for resource in ("memory", "io"):
        lines = sysfs.text(root / "proc/pressure" / resource).splitlines()
        shares = {words[0]: float(words[1].removeprefix("avg10=")) for line in lines if len(words := line.split()) > 1}
        if shares:
            found.append(Pressure(resource, shares.get("some", 0.0), shares.get("full", 0.0)))
    return tuple(found)
