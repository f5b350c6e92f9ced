"""Which bytes of a model stay in memory and which are paged, in what units. Headers enter, extents leave. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backends.gguf_header import GgufHeader, TensorInfo
from backends.weights import Extent

_LAYER = re.compile(r"blk\.(\d+)\.")
AHEAD = 2
"""Layers of a dense model on their way while one computes: enough to keep the disk busy."""
_BLOCK = 4096
"""Bytes to whose multiples reads past the page cache are bound."""
_GAP = 16 * _BLOCK
"""Bytes that are rather read for nothing than skipped by a second read."""

Unit = tuple[int, int]
"""Layer and expert; a whole layer of a dense model has expert 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`pinned` extents are read by every token; `units` are paged. `used` experts run per layer and token, 0: dense.

    Of a `table` a token reads one row.
    """

    pinned: tuple[Extent, ...]
    units: dict[Unit, tuple[Extent, ...]]
    used: int
    table: tuple[Extent, ...] = ()

    def layers(self) -> tuple[tuple[Extent, ...], ...]:
        """What is paged of each layer, the first layer first, neighbours as one extent."""
        found: dict[int, list[Extent]] = {}
        for (layer, _), extents in self.units.items():
            found.setdefault(layer, []).extend(extents)
        return tuple(tuple(stretches(found[layer])) for layer in sorted(found))

    @property
    def pinned_bytes(self) -> int:
        return total(self.pinned)

    @property
    def transit(self) -> int:
        """Bytes of layers that a dense model has on their way; none of them stays."""
        return 0 if self.used else (AHEAD + 1) * self._largest

    @property
    def least(self) -> int:
        """Bytes below which every token would read again what the token itself has read."""
        return self.pinned_bytes + (2 * self.used or AHEAD + 1) * self._largest

    @property
    def _largest(self) -> int:
        return max((total(unit) if self.used else space(unit) for unit in self.units.values()), default=0)


def total(extents: Sequence[Extent]) -> int:
    return sum(extent.size for extent in extents)


def stretches(extents: Sequence[Extent]) -> list[Extent]:
    """The fewest reads that bring all of `extents`, in the order of the file."""
    found: list[Extent] = []
    for extent in sorted(extents, key=lambda extent: (extent.part, extent.offset)):
        last = found[-1] if found else None
        if last and last.part == extent.part and extent.offset <= last.offset + last.size + _GAP:
            end = max(last.offset + last.size, extent.offset + extent.size)
            found[-1] = Extent(last.part, last.offset, end - last.offset)
        else:
            found.append(extent)
    return found


def blocks_of(stretch: Extent) -> Extent:
    """The whole blocks of the file that hold a stretch."""
    begin = stretch.offset // _BLOCK * _BLOCK
    return Extent(stretch.part, begin, -(-(stretch.offset + stretch.size) // _BLOCK) * _BLOCK - begin)


def space(extents: Sequence[Extent]) -> int:
    """Bytes of memory that these need when they are read in whole blocks."""
    return sum(blocks_of(stretch).size for stretch in stretches(extents))


def layout(headers: Sequence[GgufHeader]) -> Layout:
    """Of the model whose parts, in order, have these headers. Raises ModelFileError where they contradict themselves.

    A table of embeddings that is not the output layer too is neither pinned nor paged.
    """
    experts, used = headers[0].number("expert_count") or 0, headers[0].number("expert_used_count") or 0
    own_head = any(tensor.name == "output.weight" for header in headers for tensor in header.tensors)
    pinned: list[Extent] = []
    table: list[Extent] = []
    units: dict[Unit, list[Extent]] = {}
    for part, header in enumerate(headers):
        for tensor in header.tensors:
            layer = _LAYER.match(tensor.name)
            if experts and layer and "_exps." in tensor.name and tensor.shape[-1] == experts:
                for expert, extent in enumerate(_slices(part, tensor, experts)):
                    units.setdefault((int(layer[1]), expert), []).append(extent)
            elif layer and not experts:
                units.setdefault((int(layer[1]), 0), []).append(Extent(part, tensor.offset, tensor.size))
            else:
                row_only = own_head and tensor.name == "token_embd.weight"
                (table if row_only else pinned).append(Extent(part, tensor.offset, tensor.size))
    paged = {unit: tuple(found) for unit, found in units.items()}
    return Layout(tuple(pinned), paged, used if experts else 0, tuple(table))


def _slices(part: int, tensor: TensorInfo, experts: int) -> list[Extent]:
    size = tensor.size // experts
    return [Extent(part, tensor.offset + expert * size, size) for expert in range(experts)]
