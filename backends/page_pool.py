"""The pages of one sequence in RAM: a fixed number of frames per layer and head, over a file that holds all the rest.

Keys and values enter; pages leave as blocks, read back where they have no frame. Each head has its own pages in its
frames. A full page goes to the file at once, so that its frame can be taken at any time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.engine import Floats
from backends.page_choice import Pages
from backends.page_file import PageFile

BLOCK = 16
"""Pages of a block that is streamed; two blocks are held, one to compute with and one to fill."""


@dataclass(frozen=True, slots=True)
class PageShape:
    """`tokens` positions in a page, `pages` of them at most in a sequence, `frames` in RAM per layer and head."""

    layers: int
    kv_heads: int
    head_dim: int
    tokens: int
    pages: int
    frames: int

    @property
    def half_bytes(self) -> int:
        """Keys, or values, of one page of one head."""
        return self.tokens * self.head_dim * 4

    @property
    def layer_bytes(self) -> int:
        """A page of all heads of one layer."""
        return 2 * self.kv_heads * self.half_bytes


class PagePool:
    """Frames of shape (layers, 2, kv_heads, frames, tokens, head_dim), and which page lies in which."""

    def __init__(self, shape: PageShape, file: PageFile) -> None:
        self.shape = shape
        self._file = file
        self._frames = _pages_of_memory((shape.layers, 2, shape.kv_heads, shape.frames, shape.tokens, shape.head_dim))
        self._buffers = _pages_of_memory((2, 2, shape.kv_heads * BLOCK * shape.tokens * shape.head_dim))
        per_head = (shape.layers, shape.kv_heads)
        self._where: NDArray[np.int32] = np.full((*per_head, shape.pages), -1, np.int32)
        self._holds: NDArray[np.int32] = np.full((*per_head, shape.frames), -1, np.int32)
        self._stamps: NDArray[np.int64] = np.full((*per_head, shape.frames), -1, np.int64)
        self._filed = [0] * shape.layers
        self._clock = 0
        self._heads = list(range(shape.kv_heads))

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that may lie in RAM, and of the tables about them."""
        tables = self._where.nbytes + self._holds.nbytes + self._stamps.nbytes
        return self._frames.nbytes + self._buffers.nbytes + tables

    # -- writing

    def append(self, layer: int, pos: int, keys: Floats, values: Floats) -> Iterator[int]:
        """Put (kv_heads, tokens, head_dim) at position `pos`; yields each page that is full now, before it is filed."""
        size, at, count = self.shape.tokens, 0, keys.shape[1]
        while at < count:
            page, offset = divmod(pos + at, size)
            part = min(size - offset, count - at)
            frames = self._place(layer, page)
            # What the file holds of this page is out of date from now on.
            self._filed[layer] = min(self._filed[layer], page)
            self._frames[layer, 0, self._heads, frames, offset : offset + part] = keys[:, at : at + part]
            self._frames[layer, 1, self._heads, frames, offset : offset + part] = values[:, at : at + part]
            at += part
            if offset + part == size:
                yield page
                self._to_file(layer, page, frames)

    def _to_file(self, layer: int, page: int, frames: NDArray[np.int32]) -> None:
        if self.shape.frames < self.shape.pages:
            for head, frame in enumerate(frames):
                keys, values = self._frames[layer, :, head, frame]
                self._file.write(self._plane(layer, head), page, keys, values)
            self._filed[layer] = page + 1

    def _place(self, layer: int, page: int) -> NDArray[np.int32]:
        """The frames of the page that is being filled, one for each head."""
        self._claim_all(layer, np.full((self.shape.kv_heads, 1), page))
        return self._where[layer, :, page]

    # -- reading

    def tail(self, layer: int, pos: int) -> tuple[Floats, Floats]:
        """Keys and values of the page that position `pos` falls into, up to it: (kv_heads, pos % tokens, head_dim)."""
        page, count = divmod(pos, self.shape.tokens)
        if not count:
            empty = np.empty((self.shape.kv_heads, 0, self.shape.head_dim), np.float32)
            return empty, empty
        frames = self._place(layer, page)
        keys, values = (self._frames[layer, part, self._heads, frames, :count] for part in range(2))
        return keys, values

    def keys(self, layer: int, page: int) -> Floats:
        """The keys of a page that has frames, (kv_heads, tokens, head_dim)."""
        found: Floats = self._frames[layer, 0, self._heads, self._where[layer, :, page]]
        return found

    def _claim(self, layer: int, head: int, pages: NDArray[np.intp]) -> list[Future[None]]:
        """Give each of `pages` a frame, and begin to read those that only the file holds."""
        where, holds, stamps = self._where[layer, head], self._holds[layer, head], self._stamps[layer, head]
        self._clock += 1
        frames = where[pages]
        stamps[frames[frames >= 0]] = self._clock
        missing = pages[frames < 0]
        if not missing.size:
            return []
        taken = np.argpartition(stamps, missing.size - 1)[: missing.size]
        lost = holds[taken]
        where[lost[lost >= 0]] = -1
        where[missing], holds[taken], stamps[taken] = taken, missing, self._clock
        store, plane, filed = self._frames[layer, :, head], self._plane(layer, head), self._filed[layer]
        return [
            self._file.read(plane, int(page), [store[0, frame]], [store[1, frame]])
            for page, frame in zip(missing, taken, strict=True)
            if page < filed
        ]

    def _claim_all(self, layer: int, pages: Pages) -> None:
        """Let each head's row of `pages` have frames, and be there."""
        for read in [read for head in self._heads for read in self._claim(layer, head, pages[head])]:
            read.result()

    def gathered(self, layer: int, chosen: Pages) -> Iterator[tuple[Floats, Floats]]:
        """Blocks of `chosen`, all of which stay in RAM: keys and values, (kv_heads, tokens, head_dim) each.

        A block is overwritten when the next one is asked for.
        """
        self._claim_all(layer, chosen)
        frames = np.take_along_axis(self._where[layer], chosen, axis=1)
        for start in range(0, frames.shape[1], 2 * BLOCK):
            part = frames[:, start : start + 2 * BLOCK]
            keys, values = self._views(self._buffers.reshape(2, -1), part.shape[1])
            for head in self._heads:
                np.take(self._frames[layer, 0, head], part[head], axis=0, out=keys[head], mode="clip")
                np.take(self._frames[layer, 1, head], part[head], axis=0, out=values[head], mode="clip")
            yield self._flat(keys), self._flat(values)

    def streamed(self, layer: int, held: int) -> Iterator[tuple[Floats, Floats]]:
        """Blocks of the first `held` pages, as `gathered` gives them; what lies in the file is read, and not kept."""
        starts = range(0, held, BLOCK)
        coming = [self._begin(layer, 0, min(BLOCK, held), self._buffers[0])] if held else []
        for number, _ in enumerate(starts):
            keys, values, reads = coming.pop()
            for read in reads:
                read.result()
            if number + 1 < len(starts):
                first = starts[number + 1]
                coming = [self._begin(layer, first, min(BLOCK, held - first), self._buffers[(number + 1) % 2])]
            yield self._flat(keys), self._flat(values)

    def _begin(self, layer: int, first: int, count: int, buffer: Floats) -> tuple[Floats, Floats, list[Future[None]]]:
        """Copy what has a frame, and start to read what has none, each run of neighbouring pages at once."""
        keys, values = self._views(buffer, count)
        reads = []
        for head in self._heads:
            frames = self._where[layer, head, first : first + count]
            here = np.flatnonzero(frames >= 0)
            keys[head, here] = self._frames[layer, 0, head, frames[here]]
            values[head, here] = self._frames[layer, 1, head, frames[here]]
            for run in _runs(np.flatnonzero(frames < 0)):
                plane, targets = self._plane(layer, head), range(run.start, run.stop)
                reads.append(
                    self._file.read(
                        plane, first + run.start, [keys[head, i] for i in targets], [values[head, i] for i in targets]
                    )
                )
        return keys, values, reads

    def _views(self, buffer: Floats, count: int) -> tuple[Floats, Floats]:
        shape = (self.shape.kv_heads, count, self.shape.tokens, self.shape.head_dim)
        size = int(np.prod(shape))
        keys, values = (half[:size].reshape(shape) for half in buffer)
        return keys, values

    def _flat(self, block: Floats) -> Floats:
        return block.reshape(self.shape.kv_heads, -1, self.shape.head_dim)

    # -- forgetting

    def trim(self, pos: int) -> None:
        """Forget positions from `pos` on; at 0 the file's room is given back too."""
        kept = -(-pos // self.shape.tokens)
        self._where[:, :, kept:] = -1
        gone = self._holds >= kept
        self._holds[gone], self._stamps[gone] = -1, -1
        self._filed = [min(filed, kept) for filed in self._filed]
        if not pos:
            self._file.clear()

    def _plane(self, layer: int, head: int) -> int:
        return layer * self.shape.kv_heads + head


def _pages_of_memory(shape: tuple[int, ...]) -> Floats:
    """Floats that begin at a page of the system's, as reading past its cache demands; untouched, they take nothing."""
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape)) * 4), np.float32).reshape(shape)


def _runs(numbers: NDArray[np.intp]) -> list[range]:
    """Ascending `numbers` as ranges of neighbours."""
    if not numbers.size:
        return []
    breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
    return [range(int(part[0]), int(part[-1]) + 1) for part in np.split(numbers, breaks)]
