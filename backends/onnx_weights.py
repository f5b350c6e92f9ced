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
    middle of their range unless `zeros`, uint8 of shape (rows, blocks), says otherwise; `scales` and `offsets`:
    float32 of shape (rows, blocks), no offsets meaning zeros.
    """

    bits: int
    block: int
    quants: NDArray[np.uint8]
    scales: Floats
    offsets: Floats | None
    zeros: NDArray[np.uint8] | None = None

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


def offsets_as_columns(weight: Packed) -> Packed:
    """The matrix with more columns: multiplied with the sums of the input's blocks, they make up for the offsets.

    The offsets of a row stand in blocks like any others, padded with zeros, and once more for what 4 bits leave over.
    """
    assert weight.offsets is not None
    blocks = -(-weight.offsets.shape[1] // BLOCK)
    padded = np.zeros((weight.rows, blocks * BLOCK), np.float32)
    padded[:, : weight.offsets.shape[1]] = weight.offsets
    coarse = padded.reshape(weight.rows, blocks, BLOCK)
    high, steps = _four_bits(coarse)
    low, small = _four_bits(coarse - (high.astype(np.float32) - 8) * steps[..., None])
    return replace(
        weight,
        quants=np.concatenate([weight.quants, _pairs(high), _pairs(low)], axis=1),
        scales=np.concatenate([weight.scales, steps, small], axis=1),
        offsets=None,
    )


def _four_bits(values: Floats) -> tuple[NDArray[np.uint8], Floats]:
    steps = np.abs(values).max(-1) / np.float32(7.5)
    inverse = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps != 0)[..., None]
    return np.clip(np.rint(values * inverse) + 8, 0, 15).astype(np.uint8), steps


def in_eight_bits(weight: Packed) -> Packed:
    """A 4-bit matrix in 8 bits: the same values, but where there were offsets, whose places are rounded zero points."""
    assert weight.bits == 4
    if weight.offsets is None:
        quants = np.stack([weight.quants & 15, weight.quants >> 4], axis=-1).reshape(*weight.quants.shape[:2], -1)
        return replace(weight, bits=8, quants=quants + np.uint8(120))
    values = floats(weight).reshape(weight.rows, -1, BLOCK)
    least, most = np.minimum(values.min(-1), 0), np.maximum(values.max(-1), 0)
    scales = ((most - least) / 255).astype(np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    zeros = np.rint(-least * inverse).astype(np.uint8)
    quants = np.clip(np.rint(values * inverse[..., None]) + zeros[..., None], 0, 255).astype(np.uint8)
    return Packed(8, BLOCK, quants, scales, None, zeros)


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
