"""GGUF weight blocks as ONNX Runtime's kernels want them: integers, scales and, for Q4_1, offsets.

Tensors of a file enter; Packed matrices leave, with the same values as in the file. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.gguf_tensors import Blocks, Floats, GgufTensors, dequantize, nibbles

BLOCK = 32


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix of `rows` outputs and `columns` inputs: values `(q - zero) * scales + offsets` per block of a row.

    `quants`: uint8 of shape (rows, blocks, bytes), two 4-bit numbers to a byte or one of 8 bits, `zero` being the
    middle of their range; `scales` and `offsets`: float32 of shape (rows, blocks), no offsets meaning zeros.
    """

    bits: int
    block: int
    quants: NDArray[np.uint8]
    scales: Floats
    offsets: Floats | None

    @property
    def rows(self) -> int:
        return int(self.quants.shape[0])

    @property
    def columns(self) -> int:
        return int(self.quants.shape[1]) * self.block

    @property
    def layout(self) -> tuple[int, int, bool]:
        """Matrices of one layout can be stacked."""
        return self.bits, self.block, self.offsets is not None


Weight = Packed | Floats
"""Float32 weights have the shape (rows, columns)."""


def read_weight(tensors: GgufTensors, name: str, order: NDArray[np.intp] | None = None) -> Weight:
    """The matrix `name` with its rows in `order`. Raises UnsupportedModel for types that cannot be read."""
    blocks = tensors.blocks(name)
    if order is not None:
        blocks = blocks[order]
    pack = _PACK.get(tensors.info(name).type)
    return pack(blocks) if pack else dequantize(tensors.info(name).type, blocks).reshape(blocks.shape[0], -1)


def stack(weights: Sequence[Weight]) -> Weight | None:
    """One matrix with the rows of all `weights`; None where their layouts differ."""
    packed = [weight for weight in weights if isinstance(weight, Packed)]
    if not packed:
        return np.concatenate([weight for weight in weights if not isinstance(weight, Packed)])
    first = packed[0]
    if len(packed) < len(weights) or any(weight.layout != first.layout for weight in packed):
        return None
    offsets = [weight.offsets for weight in packed if weight.offsets is not None]
    return replace(
        first,
        quants=np.concatenate([weight.quants for weight in packed]),
        scales=np.concatenate([weight.scales for weight in packed]),
        offsets=np.concatenate(offsets) if offsets else None,
    )


def split_halves(heads: int, rows: int) -> NDArray[np.intp]:
    """The row order that undoes llama's interleaving of q and k: elements that turn together lie half a head apart."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def requantize(weight: Weight, bits: int) -> Packed:
    """The nearest matrix with symmetric blocks of `bits`: each block's largest value becomes the most negative one."""
    values = floats(weight).reshape(_rows(weight), -1, BLOCK)
    zero = 1 << (bits - 1)
    largest = np.take_along_axis(values, np.abs(values).argmax(-1)[..., None], -1)
    scales = np.asarray(largest / -zero, np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    quants = np.clip(np.rint(values * inverse) + zero, 0, 2 * zero - 1).astype(np.uint8)
    return Packed(bits, BLOCK, _pairs(quants) if bits == 4 else quants, scales[..., 0], None)


def floats(weight: Weight) -> Floats:
    """The values, shape (rows, columns)."""
    if not isinstance(weight, Packed):
        return weight
    quants = weight.quants
    if weight.bits == 4:
        quants = np.stack([quants & 15, quants >> 4], axis=-1).reshape(*quants.shape[:2], -1)
    values = (quants.astype(np.float32) - (1 << (weight.bits - 1))) * weight.scales[..., None]
    if weight.offsets is not None:
        values += weight.offsets[..., None]
    return values.reshape(weight.rows, -1)


def _rows(weight: Weight) -> int:
    return weight.rows if isinstance(weight, Packed) else weight.shape[0]


def _pairs(quants: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two neighbours to a byte, the first in the low half."""
    return np.asarray(quants[..., 0::2] | quants[..., 1::2] << 4, np.uint8)


def _scales(blocks: Blocks, name: str = "d") -> Floats:
    return np.asarray(blocks[name].astype(np.float32))


def _q4_0(blocks: Blocks) -> Packed:
    return Packed(4, BLOCK, _pairs(nibbles(blocks["q"])), _scales(blocks), None)


def _q4_1(blocks: Blocks) -> Packed:
    """`q * d + m` is `(q - 8) * d + (m + 8 * d)`: the kernel's own zero point stays, so its fast path does."""
    scales = _scales(blocks)
    return Packed(4, BLOCK, _pairs(nibbles(blocks["q"])), scales, _scales(blocks, "m") + 8 * scales)


def _q8_0(blocks: Blocks) -> Packed:
    return Packed(8, BLOCK, blocks["q"].view(np.uint8) ^ np.uint8(128), _scales(blocks), None)


_PACK: dict[str, Callable[[Any], Packed]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}
