"""Writes models of noise: a declared shape enters, a GGUF file with random weights of that shape leaves.

The text that they make means nothing; their layout, their tokenizer (the starter's) and their speed are real.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.gguf_files import fields_of

_POOL = 1 << 20
"""Numbers that are drawn and quantised once; rows of weights repeat them in random order."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A llama-like model. `inner` is the width of the MLP, or of one expert where there are `experts`.

    `skew` is the exponent of their popularity, by Zipf's law; 0 is none.
    """

    name: str
    quant: str
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    experts: int = 0
    used: int = 0
    skew: float = 0.0
    context: int = 8192

    @property
    def key_width(self) -> int:
        return self.width // self.heads * self.kv_heads


class _Maker:
    def __init__(self, shape: Noise, path: Path, vocabulary: Path) -> None:
        self._shape = shape
        self._type = gguf.GGMLQuantizationType[shape.quant]
        self._random = np.random.default_rng(len(shape.name))
        self._out = gguf.GGUFWriter(path, "llama")
        self._vocab = self._copy_vocabulary(vocabulary)

    def write(self) -> None:
        self._metadata()
        shape = self._shape
        self._matrix("token_embd", self._vocab, shape.width)
        for layer in range(shape.layers):
            self._layer(f"blk.{layer}.")
        self._ones("output_norm")
        self._matrix("output", self._vocab, shape.width)
        self._out.write_header_to_file()
        self._out.write_kv_data_to_file()
        self._out.write_tensors_to_file()
        self._out.close()

    def _copy_vocabulary(self, source: Path) -> int:
        count = 0
        for key, field in fields_of(source).items():
            if not key.startswith("tokenizer."):
                continue
            value: Any = field.contents()
            listed = field.types[0] == gguf.GGUFValueType.ARRAY
            self._out.add_key_value(key, value, field.types[0], sub_type=field.types[-1] if listed else None)
            if key == "tokenizer.ggml.tokens":
                count = len(value)
        return count

    def _metadata(self) -> None:
        out, shape = self._out, self._shape
        out.add_name(shape.name)
        out.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{shape.quant}"]))
        out.add_vocab_size(self._vocab)
        out.add_context_length(self._shape.context)
        out.add_embedding_length(shape.width)
        out.add_block_count(shape.layers)
        out.add_feed_forward_length(shape.inner)
        out.add_head_count(shape.heads)
        out.add_head_count_kv(shape.kv_heads)
        out.add_layer_norm_rms_eps(1e-5)
        out.add_rope_dimension_count(shape.width // shape.heads)
        if shape.experts:
            out.add_expert_count(shape.experts)
            out.add_expert_used_count(shape.used)

    def _layer(self, prefix: str) -> None:
        shape = self._shape
        self._ones(f"{prefix}attn_norm")
        self._ones(f"{prefix}ffn_norm")
        for name, rows in (("q", shape.width), ("k", shape.key_width), ("v", shape.key_width), ("output", shape.width)):
            self._matrix(f"{prefix}attn_{name}", rows, shape.width)
        if shape.experts:
            gate = self._random.standard_normal((shape.experts, shape.width), dtype=np.float32)
            popularity = (1 + np.argsort(self._random.random(shape.experts))) ** -shape.skew if shape.skew else 1.0
            scaled = gate * np.reshape(popularity, (-1, 1)) * shape.width**-0.5
            self._out.add_tensor(f"{prefix}ffn_gate_inp.weight", scaled.astype(np.float32))
        ending = "_exps" if shape.experts else ""
        for name, rows, columns in (
            ("gate", shape.inner, shape.width),
            ("up", shape.inner, shape.width),
            ("down", shape.width, shape.inner),
        ):
            self._matrix(f"{prefix}ffn_{name}{ending}", rows, columns, shape.experts)

    def _matrix(self, name: str, rows: int, columns: int, experts: int = 0) -> None:
        count = rows * max(1, experts)
        pool = self._random.standard_normal((max(1, min(count, _POOL // columns)), columns), dtype=np.float32)
        packed = gguf.quants.quantize(pool * columns**-0.5, self._type)
        data = packed[self._random.integers(0, len(packed), size=count)]
        if experts:
            data = data.reshape(experts, rows, -1)
        self._out.add_tensor(f"{name}.weight", data, raw_dtype=self._type)

    def _ones(self, name: str) -> None:
        self._out.add_tensor(f"{name}.weight", np.ones(self._shape.width, dtype=np.float32))


def write(shape: Noise, folder: Path, vocabulary: Path) -> Path:
    """The file of `shape` in `folder`, made unless it is there; `vocabulary` is a GGUF whose tokenizer is copied."""
    path = folder / f"{shape.name}.gguf"
    if not path.exists():
        staged = path.with_suffix(".new")
        _Maker(shape, staged, vocabulary).write()
        staged.replace(path)
    return path
