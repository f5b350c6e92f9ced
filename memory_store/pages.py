"""A file of equal pages of coded rows, mapped into memory and grown in place; rows are only ever added or wiped.

Codes enter and leave. A reader's count of rows stays right while others are added behind it. It knows nothing of what
a page means; whoever keeps the list of pages in use decides what counts.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from memory_store.codecs import Codes
from memory_store.embed import Vectors
from memory_store.errors import DiskFull

Numbers = npt.NDArray[np.int64]

PAGE_ROWS = 640
GROW_PAGES = 64
MAPPED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Maps:
    """codes (pages, rows, row_bytes), factors (pages, rows), nums (pages, rows): -1 where a row was wiped."""

    codes: Codes
    factors: Vectors
    nums: Numbers


class PagePool:
    """All pages of an index. `folder` None keeps them in memory without a file. One writer, many readers."""

    def __init__(self, folder: Path | None, row_bytes: int) -> None:
        self._shapes = {"codes": ((row_bytes,), np.uint8), "factors": ((), np.float32), "nums": ((), np.int64)}
        self._folder = folder
        self._used = 0
        self._free: list[int] = []
        self._lock = RLock()
        self._mapped: dict[str, np.memmap[Any, Any]] = {}
        self._descriptor: int | None = None
        self.maps = self._map(0, None)

    def files(self) -> tuple[Path, ...]:
        return () if self._folder is None else tuple(self._folder / f"{name}.pages" for name in self._shapes)

    def holds(self, pages: Iterable[int]) -> bool:
        """False where a file is missing or too short for these pages: then nothing of them is to be used."""
        rows = (max(pages, default=-1) + 1) * PAGE_ROWS
        sizes = [(path, rows * self._row_size(path.stem)) for path in self.files()]
        return all(not size or (path.is_file() and path.stat().st_size >= size) for path, size in sizes)

    def begin(self, pages_in_use: Iterable[int]) -> None:
        """Take these pages as they lie in the file; every other page is free, and is wiped before it is used."""
        kept = set(pages_in_use)
        self._used = max(kept, default=-1) + 1
        self._free = sorted(set(range(self._used)) - kept, reverse=True)
        for path in self.files():
            if path.exists():
                # What a killed build left behind the last page in use.
                os.truncate(path, self._used * PAGE_ROWS * self._row_size(path.stem))
        self.maps = self._map(self._used, None)

    def restart(self) -> None:
        """Every page is free. Unlike `begin`, readers may be at work: nothing is cut off under them."""
        with self._lock:
            self._free = list(range(self._used))[::-1]

    def take(self) -> int:
        """An empty page. Raises DiskFull."""
        with self._lock:
            if self._free:
                page = self._free.pop()
                self.wipe(page)
                return page
            self._reserve(self._used + 1)
            self._allocate(self._used)
            self._used += 1
            self.maps.nums[self._used - 1] = -1
            return self._used - 1

    def give(self, pages: Iterable[int]) -> None:
        """Nobody reads these any more. Their bytes stay until they are wiped or used again."""
        with self._lock:
            self._free += sorted(pages, reverse=True)

    def put(self, page: int, at: int, codes: Codes, factors: Vectors, nums: Numbers) -> None:
        end = at + len(nums)
        with self._lock:
            self.maps.codes[page, at:end] = codes
            self.maps.factors[page, at:end] = factors
            self.maps.nums[page, at:end] = nums

    def wipe(self, page: int, row: int | None = None) -> None:
        """Nothing is left of the page, or of one of its rows."""
        where = page if row is None else (page, row)
        with self._lock:
            self.maps.nums[where] = -1
            self.maps.factors[where] = 0
            self.maps.codes[where] = 0

    def wipe_free(self) -> None:
        for page in self._free:
            self.wipe(page)

    def rows(self, pages: Numbers, places: npt.NDArray[np.intp], among: int) -> tuple[Codes, Vectors]:
        """Codes and factors of rows here and there, `among` so many pages: of many read, so that they do not gather in
        memory.
        """
        factors = self.maps.factors[pages, places]
        if self._descriptor is None or among * PAGE_ROWS * self._row_size("codes") <= MAPPED_BYTES:
            return self.maps.codes[pages, places], factors
        size = self._row_size("codes")
        starts = ((pages * PAGE_ROWS + places) * size).tolist()
        read = b"".join([os.pread(self._descriptor, size, start) for start in starts])
        return np.frombuffer(read, np.uint8).reshape(-1, size), factors

    def whole(self, page: int) -> tuple[Codes, Vectors]:
        """Codes and factors of all rows of a page, read as `rows` does."""
        if self._descriptor is None:
            return self.maps.codes[page], self.maps.factors[page]
        size = self._row_size("codes")
        read = os.pread(self._descriptor, PAGE_ROWS * size, page * PAGE_ROWS * size)
        return np.frombuffer(read, np.uint8).reshape(-1, size), self.maps.factors[page]

    def release(self) -> None:
        """What was read of the files need not stay in memory."""
        if self._descriptor is not None and hasattr(mmap, "MADV_DONTNEED"):
            for each in self._mapped.values():
                mapped: Any = each.base
                mapped.madvise(mmap.MADV_DONTNEED)

    def flush(self) -> None:
        """On disk at return."""
        for mapped in self._mapped.values():
            mapped.flush()

    def _reserve(self, pages: int) -> None:
        have = len(self.maps.nums)
        if pages > have:
            self.maps = self._map(max(pages, have + max(GROW_PAGES, have // 4)), self.maps)

    def _allocate(self, page: int) -> None:
        """Blocks for a page in the hole that the files end with: where a disk is full, a write to the map would end the
        program by a signal.
        """
        for path in self.files():
            size = PAGE_ROWS * self._row_size(path.stem)
            try:
                descriptor = os.open(path, os.O_WRONLY)
                try:
                    done = os.pwrite(descriptor, bytes(size), page * size)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise _no_room() from error
            if done < size:
                raise _no_room()

    def _map(self, pages: int, before: Maps | None) -> Maps:
        return Maps(*(self._array(name, pages, before) for name in self._shapes))

    def _row_size(self, name: str) -> int:
        tail, kind = self._shapes[name]
        return int(np.prod(tail)) * np.dtype(kind).itemsize

    def _array(self, name: str, pages: int, before: Maps | None) -> npt.NDArray[Any]:
        tail, kind = self._shapes[name]
        shape = (pages, PAGE_ROWS, *tail)
        if self._folder is None or pages == 0:
            fresh = np.zeros(shape, kind)
            if before is not None:
                fresh[: len(before.nums)] = getattr(before, name)
            return fresh
        path = self._folder / f"{name}.pages"
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        try:
            with open(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
                # Growing leaves a hole, not blocks: a page costs disk and memory from its first row on.
                file.truncate(max(size, path.stat().st_size))
            self._mapped[name] = np.memmap(path, kind, "r+", shape=shape)
            if name == "codes" and self._descriptor is None:
                self._descriptor = os.open(path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._descriptor)
            # A plain view: slices of a memmap cost three times as much, and a search takes hundreds.
            return self._mapped[name].view(np.ndarray)
        except OSError as error:
            raise _no_room() from error


def _no_room() -> DiskFull:
    return DiskFull("the index cannot be written beside the memory file", "free some disk space")
