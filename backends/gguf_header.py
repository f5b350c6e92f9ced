"""What the header of a GGUF file says, as frozen values with the questions that planners and listings ask.

Knows the names of the format's keys; does no reading (see `gguf`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from backends.errors import ModelFileError
from backends.ggml_types import EMBEDDING_ARCHITECTURES, FILE_TYPES, KV_TYPES, KvType

Scalar = str | int | float | bool

_POOLING = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
_MAX_LAYERS = 4_096
_REPAIR = "the file contradicts itself; download it again or use another conversion"


@dataclass(frozen=True, slots=True)
class ArrayField:
    """A long array left in the file: element type name, element count, offset of the first element in bytes."""

    type: str
    count: int
    offset: int


Value = Scalar | tuple[Scalar, ...] | ArrayField


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` has the fastest axis first, as stored; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header. Sizes and offsets are bytes; tensors lie one after the other from `data_offset`.

    `types` names the type of each metadata value as stored, `array` for arrays.
    """

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str:
        return self.text("general.name") or ""

    @property
    def kind(self) -> str:
        """`model`, or what else the file is: `adapter`, `mmproj`, `imatrix`, `vocab`."""
        if self.architecture == "clip":
            return "mmproj"
        declared = self.text("general.type") or "model"
        return "vocab" if declared == "model" and not self.tensors and self.split_count <= 1 else declared

    @property
    def n_ctx_train(self) -> int | None:
        return self.number("context_length")

    @property
    def n_layer(self) -> int | None:
        return self.number("block_count")

    @property
    def n_embd(self) -> int | None:
        return self.number("embedding_length")

    @property
    def n_head(self) -> int | None:
        """Attention heads; the largest count where layers differ."""
        return max(self.per_layer("attention.head_count"), default=None)

    @property
    def n_head_kv(self) -> int | None:
        """Key-value heads; the largest count where layers differ, as many as `n_head` where not given."""
        return max(self.per_layer("attention.head_count_kv"), default=None) or self.n_head

    @property
    def n_vocab(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayField):
            return tokens.count
        return len(tokens) if isinstance(tokens, tuple) else self.number("vocab_size")

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def pooling(self) -> str | None:
        """How token embeddings become one: `mean`, `cls`, `last`, `rank` (a reranker), or None for a generator."""
        return _POOLING.get(self.number("pooling_type") or 0)

    @property
    def is_embedding(self) -> bool:
        return self.pooling != "rank" and (self.architecture in EMBEDDING_ARCHITECTURES or self.pooling is not None)

    @property
    def is_reranker(self) -> bool:
        return self.pooling == "rank"

    @property
    def split_index(self) -> int:
        """Which part of a split model this is, from 0."""
        return self._count("split.no", 0)

    @property
    def split_count(self) -> int:
        return self._count("split.count", 1)

    @property
    def parameters(self) -> int:
        """Elements of all tensors in this file; sum over the parts of a split model."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def quant(self) -> str:
        """The label of the quantisation: the declared file type, else the type that holds most weight bytes."""
        declared = self.metadata.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        held: Counter[str] = Counter()
        for tensor in self.tensors:
            held[tensor.type] += tensor.size
        return held.most_common(1)[0][0] if held else "none"

    def kv_bytes_per_token(self, kv_type: KvType) -> float:
        """Bytes that one token adds to the KV cache over all layers; 0 for encoders.

        Follows llama.cpp's cache shapes: per layer heads_kv x (key_length + value_length); keys alone for latent
        attention; no cache of their own for layers that share one. An upper bound where sliding windows or recurrent
        layers hold less. Raises ModelFileError where the header lacks the numbers.
        """
        if self.architecture in EMBEDDING_ARCHITECTURES:
            return 0.0
        layers, heads, width = self.n_layer, self.n_head, self.n_embd
        if layers is None or not heads or width is None:
            raise ModelFileError("the header gives no layer, head or embedding count", _REPAIR)
        key = self.number("attention.key_length") or width // heads
        value = self.number("attention.value_length") or width // heads
        if self.number("attention.key_length_mla"):
            value = 0
        own_cache = max(0, layers - (self.number("attention.shared_kv_layers") or 0))
        heads_kv = self.per_layer("attention.head_count_kv") or self.per_layer("attention.head_count")
        stored = KV_TYPES[kv_type]
        return sum(heads_kv[:own_cache]) * (key + value) * stored.size / stored.block

    def text(self, key: str) -> str | None:
        """A string under its full key; None where there is none. Raises ModelFileError for another type."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise ModelFileError(f"{key} should be text", _REPAIR)

    def number(self, key: str) -> int | None:
        """A count under `ARCHITECTURE.key`; None where there is none. Raises ModelFileError for another type."""
        full = f"{self.architecture}.{key}"
        return self._count(full, 0) if full in self.metadata else None

    def per_layer(self, key: str) -> tuple[int, ...]:
        """A count under `ARCHITECTURE.key` for each layer, one value repeated where the header gives one."""
        full, layers = f"{self.architecture}.{key}", self.n_layer or 0
        value = self.metadata.get(full)
        if value is None:
            return ()
        if layers > _MAX_LAYERS:
            raise ModelFileError(f"{self.architecture}.block_count is {layers}", _REPAIR)
        if not isinstance(value, tuple):
            return (self._count(full, 0),) * layers
        if len(value) < layers or not all(isinstance(item, int) and item >= 0 for item in value):
            raise ModelFileError(f"{full} should have one count for each of {layers} layers", _REPAIR)
        return tuple(int(item) for item in value[:layers])

    def _count(self, key: str, default: int) -> int:
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelFileError(f"{key} should be a count", _REPAIR)
        return value
