"""The mapping of a model's weights in this process: which bytes are resident, and advice to the kernel about them.

Extents of the file enter, counts of resident bytes leave. Knows no layers and no experts; Linux only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.errors import BackendError

_PAGE = mmap.PAGESIZE
_PIECE = 512 * 1024
"""Bytes per call of WILLNEED: the kernel shortens longer ones to the device's largest transfer without telling."""
_NORMAL, _RANDOM, _DONTNEED, _POPULATE_READ = 0, 1, 4, 22

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


@dataclass(frozen=True, slots=True)
class Extent:
    """`size` bytes from `offset` on of part `part` of a model, counted from 0."""

    part: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    end: int
    offset: int


class MappedWeights:
    """The parts of a model as an engine has mapped them. Raises BackendError where a part is not mapped."""

    def __init__(self, parts: Iterable[Path]) -> None:
        paths = [path.resolve() for path in parts]
        self._segments = [_segments(path) for path in paths]
        self._files = [os.open(path, os.O_RDONLY) for path in paths]
        self.sizes = [path.stat().st_size for path in paths]

    def random(self, extents: Iterable[Extent]) -> None:
        """Switch the kernel's read-ahead off for these bytes."""
        for extent in extents:
            self._advise(extent, _RANDOM)

    def usual(self, extents: Iterable[Extent]) -> None:
        """Leave read-ahead to the kernel again."""
        for extent in extents:
            self._advise(extent, _NORMAL)

    def touch(self, extent: Extent) -> None:
        """Read a byte of each page, as a computation would that nobody helps."""
        address, size = self._pages(extent)
        int(np.frombuffer(memoryview((ctypes.c_char * size).from_address(address)), np.uint8)[::_PAGE].sum())

    def announce(self, extent: Extent) -> None:
        """Begin to read; returns before the bytes are there."""
        for at in range(extent.offset, extent.offset + extent.size, _PIECE):
            size = min(_PIECE, extent.offset + extent.size - at)
            os.posix_fadvise(self._files[extent.part], at, size, os.POSIX_FADV_WILLNEED)

    def populate(self, extent: Extent) -> None:
        """Wait until all bytes are read and mapped; what the kernel cannot keep is left to page faults."""
        self._advise(extent, _POPULATE_READ)

    def drop(self, extent: Extent) -> None:
        """Give the whole pages inside up, as far as they are mapped; neighbours share the ones at the borders."""
        first = -(-extent.offset // _PAGE) * _PAGE
        last = (extent.offset + extent.size) // _PAGE * _PAGE
        for segment in self._segments[extent.part]:
            begin, end = max(first, segment.offset), min(last, segment.offset + segment.end - segment.start)
            if begin < end:
                _libc.madvise(segment.start + begin - segment.offset, end - begin, _DONTNEED)
        if first < last:
            os.posix_fadvise(self._files[extent.part], first, last - first, os.POSIX_FADV_DONTNEED)

    def address(self, extent: Extent) -> int:
        """Where in memory the extent begins."""
        for segment in self._segments[extent.part]:
            if segment.offset <= extent.offset < segment.offset + segment.end - segment.start:
                return segment.start + extent.offset - segment.offset
        raise BackendError(f"byte {extent.offset} of the weights is not mapped")

    def resident(self, extents: Iterable[Extent]) -> int:
        """Bytes of these in memory, whole pages counted; the kernel tells that only to who may write the file."""
        return sum(self._resident(extent) for extent in extents)

    def whole(self) -> Iterator[Extent]:
        """All that is mapped."""
        for part, segments in enumerate(self._segments):
            yield from (Extent(part, segment.offset, segment.end - segment.start) for segment in segments)

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files.clear()

    def _resident(self, extent: Extent) -> int:
        address, size = self._pages(extent)
        pages = (ctypes.c_ubyte * (-(-size // _PAGE)))()
        if _libc.mincore(address, size, pages) != 0:
            raise BackendError(f"the kernel does not tell what is resident: {os.strerror(ctypes.get_errno())}")
        return min(extent.size, _PAGE * int((np.frombuffer(memoryview(pages), np.uint8) & 1).sum()))

    def _advise(self, extent: Extent, advice: int) -> None:
        address, size = self._pages(extent)
        _libc.madvise(address, size, advice)

    def _pages(self, extent: Extent) -> tuple[int, int]:
        """Address and length of the pages that hold the extent."""
        address = self.address(extent)
        begin = address // _PAGE * _PAGE
        end = next(segment.end for segment in self._segments[extent.part] if segment.start <= address < segment.end)
        return begin, min(end, -(-(address + extent.size) // _PAGE) * _PAGE) - begin


def _segments(path: Path) -> list[_Segment]:
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(path):
            start, end = (int(number, 16) for number in fields[0].split("-"))
            found.append(_Segment(start, end, int(fields[2], 16)))
    if not found:
        raise BackendError(f"{path.name} is not mapped", "weights can be paged only where the engine maps the file")
    return found
