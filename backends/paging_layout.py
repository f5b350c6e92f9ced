"""Which bytes of a model stay in memory and which are paged, in what units. Headers enter, extents leave. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backends.gguf_header import GgufHeader, TensorInfo
from backends.weights import Extent

_LAYER = re.compile(r"blk\.(\d+)\.")
AHEAD = 3
"""Layers of a dense model on their way while one computes: enough to keep the disk busy."""

Unit = tuple[int, int]
"""Layer and expert; a whole layer of a dense model has expert 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`pinned` extents are read by every token; `units` are paged. `used` experts run per layer and token, 0: dense."""

    pinned: tuple[Extent, ...]
    units: dict[Unit, tuple[Extent, ...]]
    used: int

    @property
    def pinned_bytes(self) -> int:
        return total(self.pinned)

    @property
    def least(self) -> int:
        """Bytes below which every token would read again what the token itself has read."""
        largest = max((total(unit) for unit in self.units.values()), default=0)
        return self.pinned_bytes + (2 * self.used or AHEAD + 1) * largest


def total(extents: Sequence[Extent]) -> int:
    return sum(extent.size for extent in extents)


def layout(headers: Sequence[GgufHeader]) -> Layout:
    """Of the model whose parts, in order, have these headers. Raises ModelFileError where they contradict themselves.

    A table of embeddings that is not the output layer too is neither: a token reads one row of it.
    """
    experts, used = headers[0].number("expert_count") or 0, headers[0].number("expert_used_count") or 0
    own_head = any(tensor.name == "output.weight" for header in headers for tensor in header.tensors)
    pinned: list[Extent] = []
    units: dict[Unit, list[Extent]] = {}
    for part, header in enumerate(headers):
        for tensor in header.tensors:
            layer = _LAYER.match(tensor.name)
            if experts and layer and "_exps." in tensor.name and tensor.shape[-1] == experts:
                for expert, extent in enumerate(_slices(part, tensor, experts)):
                    units.setdefault((int(layer[1]), expert), []).append(extent)
            elif layer and not experts:
                units.setdefault((int(layer[1]), 0), []).append(Extent(part, tensor.offset, tensor.size))
            elif not (own_head and tensor.name == "token_embd.weight"):
                pinned.append(Extent(part, tensor.offset, tensor.size))
    return Layout(tuple(pinned), {unit: tuple(found) for unit, found in units.items()}, used if experts else 0)


def _slices(part: int, tensor: TensorInfo, experts: int) -> list[Extent]:
    size = tensor.size // experts
    return [Extent(part, tensor.offset + expert * size, size) for expert in range(experts)]
