"""Whether help with paging pays on this disk: cold weights read by plain page faults, and by asking for them ahead.

Extents of mapped weights enter, two rates and a verdict leave. Reads a few dozen megabytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.weights import Extent, MappedWeights

_SAMPLES = 8
_MOST = 16 * 2**20
"""Bytes read in each of the two ways; of larger extents only the beginning."""
_POLLUTION = 1.5
"""Bytes that the kernel may read per byte asked for before its read-ahead costs more memory than it saves time."""
_CACHED = 0.5
"""Bytes read from the disk per byte asked for below which plain faults found them in memory, held by other programs."""
_WORSE = 0.9


@dataclass(frozen=True, slots=True)
class Probe:
    """Rates in bytes per second of what was asked for; `amplification` bytes that plain faults read for each byte."""

    plain: float
    helped: float
    amplification: float

    @property
    def helps(self) -> bool:
        """Beyond memory the kernel's read-ahead throws out what is needed for what is not, however fast it reads.

        Memory that others hold for now is no reason to leave the budget to the kernel.
        """
        told = _CACHED <= self.amplification <= _POLLUTION
        return not told or self.helped >= _WORSE * self.plain


def probe(
    weights: MappedWeights, units: Sequence[Sequence[Extent]], bring: Callable[[Extent], None] | None = None
) -> Probe:
    """Read different extents of the paged units in the two ways; what was read is given up again.

    `bring` is the help that is tried; without it, the kernel is told what comes.
    """
    step = max(1, len(units) // (2 * _SAMPLES))
    some = [_cut(unit[0]) for unit in units[::step] if unit][: 2 * _SAMPLES]
    plain, helped = some[0::2], some[1::2] or some[0::2]
    _forget(weights, some)
    read, begun = _read_bytes(), time.perf_counter()
    for extent in plain:
        weights.touch(extent)
    plain_s, plain_read = time.perf_counter() - begun, _read_bytes() - read
    _forget(weights, some)
    weights.random(helped)
    begun = time.perf_counter()
    for extent in helped:
        if bring is not None:
            bring(extent)
            continue
        weights.announce(extent)
        weights.populate(extent)
    helped_s = time.perf_counter() - begun
    _forget(weights, some)
    weights.usual(helped)
    asked = sum(extent.size for extent in plain)
    return Probe(asked / plain_s, sum(extent.size for extent in helped) / helped_s, plain_read / asked)


def _cut(extent: Extent) -> Extent:
    return Extent(extent.part, extent.offset, min(extent.size, _MOST // _SAMPLES))


def _forget(weights: MappedWeights, some: Sequence[Extent]) -> None:
    # Whole parts: read-ahead leaves neighbours behind, which would make the next reading too good.
    for part in {extent.part for extent in some}:
        weights.drop(Extent(part, 0, weights.sizes[part]))


def _read_bytes() -> int:
    """Bytes that the kernel has fetched from disks for this process."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
