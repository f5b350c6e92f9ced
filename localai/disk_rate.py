"""How fast this disk brings a model's weights right now, read from the model's own files as paging would read them.

Files enter, rates leave. Reads some dozens of megabytes past the page cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from backends.layer_slots import LayerSlots
from backends.paging_layout import AHEAD, Unit
from backends.weights import Extent

_PIECE = 6 * 2**20
"""About what a layer of a small model has in one stretch."""
_ANNOUNCED = 512 * 1024
_ROUNDS = 5
_BESIDE = 3
"""Parts of experts that are on their way at a time."""


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Bytes per second: the usual of a few readings, the slowest and the fastest of them."""

    usual: float
    low: float
    high: float


def disk_rate(files: Sequence[Path], layers: bool) -> DiskRate | None:
    """Of what lies all over the largest of `files`, read as a dense model's `layers` are, or as experts.

    None where that file is too small to tell, or cannot be read.
    """
    path = max(files, key=lambda file: file.stat().st_size)
    size = path.stat().st_size
    beside = AHEAD if layers else _BESIDE
    pieces = beside * _ROUNDS
    if size < pieces * _PIECE:
        return None
    places = [number * (size - _PIECE) // (pieces - 1) for number in range(pieces)]
    # Neighbours in time lie apart in the file, so that the kernel's read-ahead of one does not serve another.
    rounds = [places[first::_ROUNDS] for first in range(_ROUNDS)]
    try:
        with ThreadPoolExecutor(beside) as readers:
            rates = _past_the_cache(path, rounds, readers) if layers else _announced(path, rounds, readers)
    except OSError:
        return None
    return DiskRate(median(rates), min(rates), max(rates))


def _past_the_cache(path: Path, rounds: Sequence[Sequence[int]], readers: ThreadPoolExecutor) -> list[float]:
    units: dict[Unit, list[Extent]] = {(place, 0): [Extent(0, place, _PIECE)] for places in rounds for place in places}
    slots = LayerSlots([path], units)
    slots.divide([], len(rounds[0]))
    rates = []
    try:
        for places in rounds:
            begun = time.perf_counter()
            read = sum(readers.map(lambda place, slot: slots.read((place, 0), slot), places, slots.free))
            rates.append(read / max(1e-6, time.perf_counter() - begun))
    finally:
        slots.close()
    # The first one's memory was still to be taken from the system.
    return rates[1:]


def _announced(path: Path, rounds: Sequence[Sequence[int]], readers: ThreadPoolExecutor) -> list[float]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return [_round(fd, places, readers) for places in rounds]
    finally:
        os.close(fd)


def _round(fd: int, places: Sequence[int], readers: ThreadPoolExecutor) -> float:
    for place in places:
        os.posix_fadvise(fd, place, _PIECE, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    # As paging does: all is on its way before the first is waited for, in pieces that one announcement may have.
    for start in (place + at for place in places for at in range(0, _PIECE, _ANNOUNCED)):
        os.posix_fadvise(fd, start, _ANNOUNCED, os.POSIX_FADV_WILLNEED)
    read = sum(readers.map(lambda place: len(os.pread(fd, _PIECE, place)), places))
    return read / max(1e-6, time.perf_counter() - begun)
