"""Weights for the MLX engine: the tensors of a GGUF file or an MLX folder enter, matrices that can multiply leave.

Blocks of Q4_0, Q4_1 and Q8_0 become MLX's groups of 32 without a change of value: a weight is `scale * q + bias` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backends.arch import Arch, MlpRole, Role, TopRole
from backends.engine import Floats
from backends.errors import ModelFileError, UnsupportedModel
from backends.gguf_tensors import GgufTensors, nibbles
from backends.mlx_modes import Mode

GROUP = 32


class Matrix(Protocol):
    """A weight of shape (rows, columns)."""

    bytes: int

    def times(self, x: mx.array) -> mx.array:
        """(n, columns) to (n, rows)."""

    def rows(self, ids: mx.array) -> mx.array:
        """The rows `ids`, (n, columns)."""


class Quantized:
    """MLX's packed integers with a scale and a bias per group, in the activations' type."""

    def __init__(self, packed: mx.array, scales: mx.array, biases: mx.array, bits: int, group: int) -> None:
        self._parts = (packed, scales, biases)
        self._group, self._bits = group, bits
        self.bytes = packed.nbytes + scales.nbytes + biases.nbytes

    def times(self, x: mx.array) -> mx.array:
        packed, scales, biases = self._parts
        return mx.quantized_matmul(x, packed, scales, biases, transpose=True, group_size=self._group, bits=self._bits)

    def rows(self, ids: mx.array) -> mx.array:
        packed, scales, biases = self._parts
        return mx.dequantize(packed[ids], scales[ids], biases[ids], group_size=self._group, bits=self._bits)


class Dense:
    """Plain values."""

    def __init__(self, values: mx.array) -> None:
        # Stored as columns: the CPU multiplies a row by that several times as fast.
        self._columns = mx.contiguous(values.T)
        mx.eval(self._columns)
        self.bytes = self._columns.nbytes

    def times(self, x: mx.array) -> mx.array:
        return x @ self._columns

    def rows(self, ids: mx.array) -> mx.array:
        return self._columns[:, ids].T


class Host:
    """Plain values in numpy's memory, multiplied there. Each product waits for what it multiplies."""

    def __init__(self, values: Floats) -> None:
        self._values = np.ascontiguousarray(values)
        self.bytes = values.nbytes

    def times(self, x: mx.array) -> mx.array:
        return mx.array(np.asarray(x) @ self._values.T)

    def rows(self, ids: mx.array) -> mx.array:
        return mx.array(self._values[np.asarray(ids)])


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: matrices by role, vectors (norms and biases) by role."""

    matrices: Mapping[Role | MlpRole, Matrix]
    vectors: Mapping[Role | MlpRole, mx.array]


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model; `head` is the embedding where the two are tied. `frequencies` are in radians per position."""

    embedding: Matrix
    head: Matrix
    norm: mx.array
    layers: tuple[Layer, ...]
    frequencies: tuple[float, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all matrices."""
        every = {id(m): m for m in (self.embedding, self.head, *(m for x in self.layers for m in x.matrices.values()))}
        return sum(matrix.bytes for matrix in every.values())


_VECTORS = ("attn_norm", "ffn_norm", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm")


def from_gguf(tensors: GgufTensors, arch: Arch, mode: Mode, progress: Callable[[float], None]) -> Weights:
    """Raises UnsupportedModel for tensor types that cannot be read."""
    kind = mx.float16 if mode.half else mx.float32

    def matrix(name: str) -> Matrix:
        if mode.host:
            return Host(tensors.floats(name))
        return _packed(tensors, name, kind)

    layers = []
    for index in range(arch.layers):
        names = arch.layer(index)
        vectors = {role: mx.array(tensors.floats(n)).astype(kind) for role, n in names.items() if role in _VECTORS}
        layers.append(Layer({r: matrix(n) for r, n in names.items() if r not in _VECTORS}, vectors))
        progress((index + 1) / arch.layers)
    top = arch.top()
    embedding = matrix(top["embedding"])
    factors = tensors.floats(top["rope_freqs"]).tolist() if arch.frequency_tensor else ()
    return Weights(
        embedding=embedding,
        head=embedding if arch.tied else matrix(top["output"]),
        norm=mx.array(tensors.floats(top["output_norm"])).astype(kind),
        layers=tuple(layers),
        frequencies=tuple(arch.inverse_frequencies(factors)),
    )


def _packed(tensors: GgufTensors, name: str, kind: Any) -> Matrix:
    stored, blocks = tensors.info(name).type, tensors.blocks(name)
    if stored not in ("Q4_0", "Q4_1", "Q8_0"):
        return Dense(mx.array(tensors.floats(name)).astype(kind))
    scale = blocks["d"].astype(np.float32)
    if stored == "Q8_0":
        integers, bias, bits = _words((blocks["q"].astype(np.int16) + 128).astype(np.uint8)), -128 * scale, 8
    else:
        halves = nibbles(blocks["q"])
        integers, bits = _words((halves[..., ::2] | halves[..., 1::2] << 4).astype(np.uint8)), 4
        bias = blocks["m"].astype(np.float32) if stored == "Q4_1" else -8 * scale
    return Quantized(mx.array(integers), mx.array(scale).astype(kind), mx.array(bias).astype(kind), bits, GROUP)


def _words(integers: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Bytes of all groups of a row, (rows, groups, n), as one row of words."""
    return np.ascontiguousarray(integers).reshape(integers.shape[0], -1).view(np.uint32)


# -- folders

FOLDER_NAMES: Mapping[Role | MlpRole, str] = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
FOLDER_TOP: Mapping[TopRole, str] = {
    "embedding": "model.embed_tokens",
    "output_norm": "model.norm.weight",
    "output": "lm_head",
}


def from_folder(
    folder: Path, config: Mapping[str, Any], arch: Arch, mode: Mode, progress: Callable[[float], None]
) -> Weights:
    """The safetensors of a folder that mlx-lm wrote, quantised or not. Raises ModelFileError, which names the file."""
    stored = _Stored(folder, config, mode)
    shapes = arch.shapes()
    layers = []
    for index in range(arch.layers):
        names = {role: f"model.layers.{index}.{FOLDER_NAMES[role]}" for role in shapes}
        vectors = {role: stored.vector(name, shapes[role]) for role, name in names.items() if role in _VECTORS}
        matrices = {role: stored.matrix(name, shapes[role]) for role, name in names.items() if role not in _VECTORS}
        layers.append(Layer(matrices, vectors))
        progress((index + 1) / arch.layers)
    tall = (arch.width, arch.vocab)
    embedding = stored.matrix(FOLDER_TOP["embedding"], tall)
    return Weights(
        embedding=embedding,
        head=embedding if arch.tied else stored.matrix(FOLDER_TOP["output"], tall),
        norm=stored.vector(FOLDER_TOP["output_norm"], (arch.width,)),
        layers=tuple(layers),
        frequencies=tuple(arch.inverse_frequencies()),
    )


class _Stored:
    """The tensors of a folder by name, asked for with the shape that its configuration gives, input width first."""

    def __init__(self, folder: Path, config: Mapping[str, Any], mode: Mode) -> None:
        self._folder, self._config, self._mode = folder, config, mode
        self._kind = mx.float16 if mode.half else mx.float32
        self._tensors = _safetensors(folder)

    def vector(self, name: str, shape: tuple[int, ...]) -> mx.array:
        values = self._array(name)
        self._check(name, values.shape, shape)
        return values.astype(self._kind)

    def matrix(self, name: str, shape: tuple[int, ...]) -> Matrix:
        values = self._array(f"{name}.weight")
        if f"{name}.scales" not in self._tensors:
            self._check(name, values.shape, shape)
            plain = values.astype(mx.float32 if self._mode.host else self._kind)
            return Host(np.array(plain)) if self._mode.host else Dense(plain)
        bits, group = _grouping(self._folder, self._config, name)
        self._check(name, (values.shape[0], values.shape[1] * 32 // bits), shape)
        scales, biases = (self._array(f"{name}.{part}").astype(mx.float32) for part in ("scales", "biases"))
        if not self._mode.host:
            return Quantized(values, scales.astype(self._kind), biases.astype(self._kind), bits, group)
        return Host(np.array(mx.dequantize(values, scales, biases, group_size=group, bits=bits)))

    def _array(self, name: str) -> mx.array:
        if name not in self._tensors:
            raise ModelFileError(f"{self._folder.name} lacks the tensor {name}", "download the whole folder again")
        return self._tensors[name]

    def _check(self, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
        if found != shape[::-1]:
            raise ModelFileError(
                f"{self._folder.name}: {name} has shape {found}, its config.json asks for {shape[::-1]}",
                "download the whole folder again",
            )


def _grouping(folder: Path, config: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Bits and group size of a matrix: its own entry in the configuration, else the one for all."""
    every = config.get("quantization") or config.get("quantization_config")
    own = every.get(name) if isinstance(every, dict) else None
    found = own if isinstance(own, dict) else every
    if not isinstance(found, dict) or not {"bits", "group_size"} <= found.keys():
        raise ModelFileError(f"{folder.name}/config.json does not say how {name} is quantised", "download it again")
    if found.get("mode", "affine") != "affine":
        raise UnsupportedModel(f"{folder.name}: {name} is quantised as {found['mode']!r}", "use an affine quantisation")
    return int(found["bits"]), int(found["group_size"])


def _safetensors(folder: Path) -> dict[str, mx.array]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFileError(f"{folder.name} has no .safetensors file", "download the whole folder again")
    found: dict[str, mx.array] = {}
    for file in files:
        try:
            tensors = mx.load(str(file))
            assert isinstance(tensors, dict)
            found |= tensors
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).replace(f"{folder}/", "")
            raise ModelFileError(f"{folder.name}/{file.name} cannot be read: {reason}", "download it again") from error
    return found
