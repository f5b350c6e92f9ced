"""Memory for whole layers of a dense model, filled from the file past the page cache.

Extents of the file enter; addresses at which their bytes lie leave. Knows no tensors and no order of layers.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from backends.paging_layout import Unit, blocks_of, stretches
from backends.weights import Extent

_HUGE = 2 * 2**20


class LayerSlots:
    """`kept` units have a place for good, the others share `count` slots of the largest one's size.

    Memory is taken from the system when it is first read into. `direct` is False where the file system knows no reads
    past the page cache; then what was read is given up there. Raises OSError where a part cannot be opened.
    """

    def __init__(self, parts: Sequence[Path], units: Mapping[Unit, Sequence[Extent]]) -> None:
        self._units = {unit: stretches(extents) for unit, extents in units.items()}
        self._paths = list(parts)
        self._sizes = [path.stat().st_size for path in parts]
        self.direct = True
        self._turning = threading.Lock()
        try:
            self._files = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in parts]
        except OSError as failed:
            if failed.errno != errno.EINVAL:
                raise
            self.direct = False
            self._files = [os.open(path, os.O_RDONLY) for path in parts]
        self._memory: mmap.mmap | None = None
        self.places: dict[Unit, int] = {}
        self.free: list[int] = []

    def size(self, unit: Unit) -> int:
        """Bytes of memory that a unit needs here."""
        return sum(block.size for block in self._blocks(unit))

    def spots(self, unit: Unit, extents: Sequence[Extent]) -> list[tuple[Extent, int]]:
        """How many bytes into the unit's memory each of its extents will be."""
        found, at = [], 0
        for block in self._blocks(unit):
            end = block.offset + block.size
            inside = [e for e in extents if e.part == block.part and block.offset <= e.offset < end]
            found += [(extent, at + extent.offset - block.offset) for extent in inside]
            at += block.size
        return found

    def divide(self, kept: Sequence[Unit], count: int) -> None:
        """Give every kept unit its place, and make the slots of the others."""
        passing = max((self.size(unit) for unit in self._units.keys() - set(kept)), default=0)
        size = sum(self.size(unit) for unit in kept) + count * passing
        self._memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A request to a disk has a limited number of segments: 4 KiB pages halve what one request brings.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        start = np.frombuffer(self._memory, np.uint8).ctypes.data
        at = -(-start // _HUGE) * _HUGE
        for unit in kept:
            self.places[unit] = at
            at += self.size(unit)
        self.free = [at + number * passing for number in range(count)]

    def read(self, unit: Unit, place: int) -> int:
        """Fill the memory at `place` with a unit; returns the bytes read. Raises OSError where the file is shorter."""
        for block in self._blocks(unit):
            self._fill(block, memoryview((ctypes.c_char * block.size).from_address(place)).cast("B"))
            place += block.size
        return self.size(unit)

    def try_out(self, extent: Extent) -> None:
        """Read an extent to nowhere, as `read` does."""
        block = blocks_of(extent)
        with mmap.mmap(-1, block.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            self._fill(block, memoryview(memory))

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files.clear()

    def _blocks(self, unit: Unit) -> list[Extent]:
        return [blocks_of(stretch) for stretch in self._units[unit]]

    def _fill(self, block: Extent, into: memoryview) -> None:
        got, needed = 0, min(block.size, self._sizes[block.part] - block.offset)
        while got < needed:
            direct = self.direct
            try:
                count = os.preadv(self._files[block.part], [into[got:]], block.offset + got)
            except OSError as failed:
                # Where another reader has just turned, this one began before.
                if failed.errno != errno.EINVAL or not direct:
                    raise
                self._buffered()
                continue
            if not count:
                raise OSError(errno.EIO, "the file of weights is shorter than it was")
            got += count
        if not self.direct:
            os.posix_fadvise(self._files[block.part], block.offset, block.size, os.POSIX_FADV_DONTNEED)

    def _buffered(self) -> None:
        """Read through the page cache, and give up there what was read: some file systems know no other way."""
        with self._turning:
            for file, path in zip(self._files, self._paths, strict=True):
                other = os.open(path, os.O_RDONLY)
                os.dup2(other, file)
                os.close(other)
            self.direct = False
