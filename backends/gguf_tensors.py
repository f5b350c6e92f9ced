"""The tensors of a GGUF file as numpy arrays over a read-only mapping: raw blocks, or float32 values.

The header's bounds are checked where it is read (`gguf`). Knows block layouts; nothing of graphs or engines.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import ModelFileError, UnsupportedModel
from backends.gguf import read_shards, shards
from backends.gguf_header import GgufHeader, TensorInfo

Floats = NDArray[np.float32]
Blocks = NDArray[Any]

BLOCKS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
        "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
        "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
        "Q6_K": np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scale", "i1", 16), ("d", "<f2")]),
    }
)
"""Tensor types that can be read, and how one block lies in the file. In Q4 blocks the low half of byte i is element i,
the high half element i + 16."""


class GgufTensors:
    """All parts of one model, mapped. Arrays are views: they keep the mapping alive, and are read-only."""

    def __init__(self, path: Path) -> None:
        self.headers: tuple[GgufHeader, ...] = read_shards(path)
        self._name = path.name
        self._maps: dict[str, mmap.mmap] = {}
        self._infos: dict[str, TensorInfo] = {}
        for part, header in zip(shards(path), self.headers, strict=True):
            mapping = _mapped(part)
            if len(mapping) < header.file_size:
                raise ModelFileError(f"{part.name} became shorter while it was read", "let its download end first")
            for tensor in header.tensors:
                self._maps[tensor.name] = mapping
                self._infos[tensor.name] = tensor

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def blocks(self, name: str) -> Blocks:
        """A tensor as stored, shape (rows, blocks per row) of the type's block, or (elements,) for a vector.

        Raises UnsupportedModel for types outside `BLOCKS`.
        """
        info = self._infos[name]
        dtype = BLOCKS.get(info.type)
        if dtype is None:
            known = ", ".join(BLOCKS)
            raise UnsupportedModel(
                f"{self._name}: {name} is stored as {info.type}, this backend reads {known}",
                "llama.cpp serves it: choose that backend (-B llama.cpp)",
            )
        flat: Blocks = np.frombuffer(self._maps[name], dtype, info.size // dtype.itemsize, info.offset)
        return flat.reshape(*reversed(info.shape[1:]), -1) if len(info.shape) > 1 else flat

    def floats(self, name: str) -> Floats:
        """A tensor's values, shape reversed from the header's: (rows, columns), or (elements,)."""
        info = self._infos[name]
        values = dequantize(info.type, self.blocks(name))
        return values.reshape(*reversed(info.shape))


def dequantize(kind: str, blocks: Blocks) -> Floats:
    """The float32 values of `blocks` of the type `kind`, one more axis for the elements of a block."""
    return _VALUES[kind](blocks)


def nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The 32 four-bit numbers of each 16 bytes of a Q4 block, in the order of their elements."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path.name} cannot be mapped: {error}", "check the file and its permissions") from error


def _scale(blocks: Blocks, name: str = "d") -> Floats:
    return np.asarray(blocks[name].astype(np.float32)[..., None])


def _q4_0(blocks: Blocks) -> Floats:
    return (nibbles(blocks["q"]).astype(np.float32) - 8) * _scale(blocks)


def _q4_1(blocks: Blocks) -> Floats:
    return nibbles(blocks["q"]).astype(np.float32) * _scale(blocks) + _scale(blocks, "m")


def _q8_0(blocks: Blocks) -> Floats:
    return blocks["q"].astype(np.float32) * _scale(blocks)


def _q6_k(blocks: Blocks) -> Floats:
    """256 elements as two halves of 128; each half takes four runs of 32 from its 64 low and 32 high bytes."""
    low = blocks["low"].reshape(*blocks.shape, 2, 1, 2, 32) >> np.array([0, 4], np.uint8).reshape(2, 1, 1) & 15
    high = blocks["high"].reshape(*blocks.shape, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    values = (low.reshape(*blocks.shape, 2, 4, 32) | high << 4).astype(np.float32) - 32
    scaled = values.reshape(*blocks.shape, 16, 16) * blocks["scale"].astype(np.float32)[..., None]
    return np.asarray(scaled.reshape(*blocks.shape, 256) * _scale(blocks))


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.astype(np.uint32) << 16).view(np.float32)


def _plain(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)


_VALUES: dict[str, Callable[[Blocks], Floats]] = {
    "F32": _plain,
    "F16": _plain,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
    "Q6_K": _q6_k,
}
