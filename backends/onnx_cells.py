"""The KV caches of an ONNX decoder: where the keys and values of each sequence lie, and how many bytes they hold.

`SharedCells` reserves address space for all sequences at full length, of which only what is written takes memory;
graphs write into it in place. `GrowingCells` keeps what graphs without such a cache hand back.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.onnx_layout import Layout

Cells = NDArray[Any]

_STEP = 64
_RELEASE = 256
"""Cells that a cut must free before the memory is given back: each return costs a system call per layer and head."""


class KvCells(Protocol):
    """Lengths and contents of sequences 0 to n_seq - 1; a length counts tokens."""

    lengths: list[int]

    def trim(self, seq: int, pos: int) -> None: ...

    def copy(self, source: int, target: int) -> None: ...

    def export_block(self, seq: int, start: int, end: int) -> bytearray: ...

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool: ...


class SharedCells:
    """Rows of `capacity` cells in one reservation, shape (layers, 2, n_seq, kv_heads, capacity, head_dim).

    A batch runs over neighbouring rows, so `gather` moves sequences to where they are neighbours.
    """

    def __init__(self, layout: Layout, n_ctx: int, n_seq: int) -> None:
        # One more step than asked, so that heads do not all begin at the same place of the processor's caches.
        self.capacity = (n_ctx + _STEP - 1) // _STEP * _STEP + _STEP
        shape = (layout.layers, 2, n_seq, layout.kv_heads, self.capacity, layout.head_dim)
        size = int(np.prod(shape)) * layout.kv_type.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._map = mmap.mmap(-1, size, flags=flags)
        self._cells: Cells = np.frombuffer(self._map, layout.kv_type).reshape(shape)
        self._start = self._cells.ctypes.data
        self.lengths = [0] * n_seq
        self._rows = list(range(n_seq))
        self._written = [0] * n_seq

    def row(self, seq: int) -> int:
        return self._rows[seq]

    def address(self, layer: int, part: int, row: int) -> int:
        """Where the keys (`part` 0) or values (1) of a row begin."""
        return int(self._start + self._cells.strides[0] * layer + self._cells.strides[1] * part + row * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        return self._cells.strides[2]

    def view(self, seq: int, start: int, end: int) -> Cells:
        """The cells of `seq` in these positions themselves, shape (layers, 2, kv_heads, end - start, head_dim)."""
        view: Cells = self._cells[:, :, self._rows[seq], :, start:end]
        return view

    def writes(self, seq: int, length: int) -> None:
        """Note that the graph is about to fill the cells of `seq` up to `length`, whether or not it ends well."""
        row = self._rows[seq]
        self._written[row] = max(self._written[row], length)

    def wrote(self, seq: int, length: int) -> None:
        """Note that `seq` has `length` cells now."""
        self.writes(seq, length)
        self.lengths[seq] = length

    def gather(self, seqs: Sequence[int]) -> list[int]:
        """Bring `seqs` into neighbouring rows, moving as few cells as possible; return them in the order of rows."""
        count, total = len(seqs), len(self._rows)
        owners = {self._rows[seq]: seq for seq in seqs}

        def moved(first: int) -> int:
            outside = sum(self.lengths[s] for row, s in owners.items() if not first <= row < first + count)
            return outside + sum(self._written[row] for row in range(first, first + count) if row not in owners)

        first = min(range(total - count + 1), key=moved)
        window = range(first, first + count)
        free = [row for row in window if row not in owners]
        for row, seq in owners.items():
            if row not in window:
                self._swap(seq, free.pop())
        return sorted(seqs, key=self.row)

    def _swap(self, seq: int, row: int) -> None:
        """Exchange the rows of `seq` and of whatever sequence lies in `row`."""
        own, other = self._rows[seq], self._rows.index(row)
        kept = self._cells[:, :, row, :, : self.lengths[other]].copy()
        self._cells[:, :, row, :, : self.lengths[seq]] = self._cells[:, :, own, :, : self.lengths[seq]]
        self._cells[:, :, own, :, : self.lengths[other]] = kept
        self._rows[seq], self._rows[other] = row, own
        for at, length in ((row, self.lengths[seq]), (own, self.lengths[other])):
            self._written[at] = max(self._written[at], length)
            self._release(at, length)

    def trim(self, seq: int, pos: int) -> None:
        self.lengths[seq] = min(self.lengths[seq], pos)
        if pos == 0 or self._written[self._rows[seq]] - pos >= _RELEASE:
            self._release(self._rows[seq], self.lengths[seq])

    def copy(self, source: int, target: int) -> None:
        length = self.lengths[source]
        self.trim(target, 0)
        self._cells[:, :, self._rows[target], :, :length] = self._cells[:, :, self._rows[source], :, :length]
        self.wrote(target, length)

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        return bytearray(self.view(seq, start, end).tobytes())

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        target = self.view(seq, start, end)
        if start != self.lengths[seq] or end > self.capacity or len(block) != target.nbytes:
            return False
        self.writes(seq, end)
        target[...] = np.frombuffer(block, target.dtype).reshape(target.shape)
        self.lengths[seq] = end
        return True

    def _release(self, row: int, length: int) -> None:
        """Give the pages of a row past `length` cells back to the system."""
        cell = self._cells.strides[4]
        first, last = -(-length * cell // mmap.PAGESIZE) * mmap.PAGESIZE, self._written[row] * cell
        if last > first:
            for layer in range(self._cells.shape[0]):
                for part in range(2):
                    begin = self.address(layer, part, row) - self._start
                    for head in range(self._cells.shape[3]):
                        self._discard(begin + head * self._cells.strides[3] + first, last - first)
            self._written[row] = length

    def _discard(self, offset: int, size: int) -> None:
        begin = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


class GrowingCells:
    """For each sequence, arrays of shape (1, kv_heads, length, head_dim): keys and values of each layer in turn."""

    def __init__(self, layout: Layout, n_seq: int) -> None:
        self._shape = (1, layout.kv_heads, 0, layout.head_dim)
        self._layout = layout
        self.arrays: list[list[Cells]] = [self._empty() for _ in range(n_seq)]
        self.lengths = [0] * n_seq

    def _empty(self) -> list[Cells]:
        return [np.empty(self._shape, self._layout.kv_type) for _ in range(2 * self._layout.layers)]

    def trim(self, seq: int, pos: int) -> None:
        if pos < self.lengths[seq]:
            self.lengths[seq] = pos
            self.arrays[seq] = [np.ascontiguousarray(each[:, :, :pos]) for each in self.arrays[seq]]

    def copy(self, source: int, target: int) -> None:
        # A step makes new arrays instead of writing into these, so both may hold them.
        self.arrays[target] = list(self.arrays[source])
        self.lengths[target] = self.lengths[source]

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        return bytearray(b"".join(each[:, :, start:end].tobytes() for each in self.arrays[seq]))

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        _, heads, _, dim = self._shape
        if start != self.lengths[seq] or len(block) != (end - start) * self._layout.token_bytes:
            return False
        parts = np.frombuffer(block, self._layout.kv_type).reshape(-1, 1, heads, end - start, dim)
        joined = zip(self.arrays[seq], parts, strict=True)
        self.arrays[seq], self.lengths[seq] = [np.concatenate(pair, axis=2) for pair in joined], end
        return True
