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

from backends.paging_layout import AHEAD

_PIECE = 6 * 2**20
"""About what a layer of a small model has in one stretch."""
_ANNOUNCED = 512 * 1024
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Bytes per second: the usual of a few readings, the slowest and the fastest of them."""

    usual: float
    low: float
    high: float


def disk_rate(files: Sequence[Path]) -> DiskRate | None:
    """Of what lies all over the largest of `files`; None where that is too small to tell, or cannot be read."""
    path = max(files, key=lambda file: file.stat().st_size)
    size = path.stat().st_size
    pieces = AHEAD * _ROUNDS
    if size < pieces * _PIECE:
        return None
    places = [number * (size - _PIECE) // (pieces - 1) for number in range(pieces)]
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        with ThreadPoolExecutor(AHEAD) as readers:
            # Neighbours in time lie apart in the file, so that the kernel's read-ahead of one does not serve another.
            rates = [_round(fd, places[first::_ROUNDS], readers) for first in range(_ROUNDS)]
    finally:
        os.close(fd)
    return DiskRate(median(rates), min(rates), max(rates))


def _round(fd: int, places: Sequence[int], readers: ThreadPoolExecutor) -> float:
    for place in places:
        os.posix_fadvise(fd, place, _PIECE, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    # As paging does: all is on its way before the first is waited for, in pieces that one announcement may have.
    for start in (place + at for place in places for at in range(0, _PIECE, _ANNOUNCED)):
        os.posix_fadvise(fd, start, _ANNOUNCED, os.POSIX_FADV_WILLNEED)
    read = sum(readers.map(lambda place: len(os.pread(fd, _PIECE, place)), places))
    return read / max(1e-6, time.perf_counter() - begun)
