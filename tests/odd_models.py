"""Writes small models of noise whose memory is no plain KV cache: a window, a recurrent state, and both kinds of layer.

A kind enters, a GGUF file leaves. Layouts are those that llama.cpp loads; the tokenizer is the starter's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.gguf_files import fields_of

WIDTH, HEADS, INNER = 128, 4, 256
WINDOW = 64
_STATE, _RANK, _CONV = 16, 8, 4


class _File:
    def __init__(self, path: Path, architecture: str, layers: int, vocabulary: Path) -> None:
        self._random = np.random.default_rng(layers)
        self.out = gguf.GGUFWriter(path, architecture)
        self.words = self._vocabulary(vocabulary)
        self.out.add_context_length(2048)
        self.out.add_embedding_length(WIDTH)
        self.out.add_block_count(layers)
        self.out.add_layer_norm_rms_eps(1e-5)
        self.out.add_layer_norm_eps(1e-5)
        self.out.add_vocab_size(self.words)
        self.matrix("token_embd.weight", self.words, WIDTH)

    def _vocabulary(self, source: Path) -> int:
        count = 0
        for key, field in fields_of(source).items():
            if key.startswith("tokenizer.") and key != "tokenizer.chat_template":
                value: Any = field.contents()
                listed = field.types[0] == gguf.GGUFValueType.ARRAY
                self.out.add_key_value(key, value, field.types[0], sub_type=field.types[-1] if listed else None)
                count = len(value) if key == "tokenizer.ggml.tokens" else count
        return count

    def matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        drawn = self._random.standard_normal((rows, columns), dtype=np.float32) * (scale * columns**-0.5)
        plain = "conv" in name or name.endswith("ssm_a")
        self.out.add_tensor(name, drawn if plain else drawn.astype(np.float16))

    def vector(self, name: str, values: Any, length: int = WIDTH) -> None:
        self.out.add_tensor(name, np.broadcast_to(np.asarray(values, np.float32), (length,)).copy())

    def array(self, name: str, shape: tuple[int, ...]) -> None:
        self.out.add_tensor(name, 0.3 * self._random.standard_normal(shape, dtype=np.float32))

    def attention(self, prefix: str) -> None:
        for part in ("q", "k", "v", "output"):
            self.matrix(f"{prefix}attn_{part}.weight", WIDTH, WIDTH, 2.0)
        for part in ("q", "k"):
            self.vector(f"{prefix}attn_{part}_norm.weight", 1.0, WIDTH // HEADS)

    def feed_forward(self, prefix: str) -> None:
        self.vector(f"{prefix}ffn_norm.weight", 1.0)
        for part, rows, columns in (("gate", INNER, WIDTH), ("up", INNER, WIDTH), ("down", WIDTH, INNER)):
            self.matrix(f"{prefix}ffn_{part}.weight", rows, columns)

    def close(self) -> None:
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def _window(file: _File, layers: int) -> None:
    """As Gemma 3: five layers see the last WINDOW tokens, the sixth sees all."""
    file.out.add_feed_forward_length(INNER)
    file.out.add_head_count(HEADS)
    file.out.add_head_count_kv(HEADS)
    file.out.add_key_length(WIDTH // HEADS)
    file.out.add_value_length(WIDTH // HEADS)
    file.out.add_sliding_window(WINDOW)
    file.vector("output_norm.weight", 1.0)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "post_attention_norm", "post_ffw_norm"):
            file.vector(f"{prefix}{norm}.weight", 1.0)
        file.attention(prefix)
        file.feed_forward(prefix)


def _recurrent(file: _File, layers: int) -> None:
    """As Mamba: a convolution and a state, whatever the length."""
    inner = 2 * WIDTH
    file.out.add_feed_forward_length(0)
    file.out.add_head_count(0)
    file.out.add_ssm_conv_kernel(_CONV)
    file.out.add_ssm_inner_size(inner)
    file.out.add_ssm_state_size(_STATE)
    file.out.add_ssm_time_step_rank(_RANK)
    file.vector("output_norm.weight", 1.0)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        file.vector(f"{prefix}attn_norm.weight", 1.0)
        file.matrix(f"{prefix}ssm_in.weight", 2 * inner, WIDTH, 2.0)
        file.matrix(f"{prefix}ssm_conv1d.weight", inner, _CONV)
        file.vector(f"{prefix}ssm_conv1d.bias", 0.0, inner)
        file.matrix(f"{prefix}ssm_x.weight", _RANK + 2 * _STATE, inner, 2.0)
        file.matrix(f"{prefix}ssm_dt.weight", inner, _RANK)
        file.vector(f"{prefix}ssm_dt.bias", -3.0, inner)
        decay = -np.tile(np.arange(1, _STATE + 1, dtype=np.float32), (inner, 1))
        file.out.add_tensor(f"{prefix}ssm_a", decay)
        file.vector(f"{prefix}ssm_d", 1.0, inner)
        file.matrix(f"{prefix}ssm_out.weight", WIDTH, inner)


def _hybrid(file: _File, layers: int) -> None:
    """As LFM2: every other layer attends, the others remember the last tokens alone."""
    heads = [HEADS if layer % 2 else 0 for layer in range(layers)]
    file.out.add_feed_forward_length(INNER)
    file.out.add_head_count(HEADS)
    file.out.add_head_count_kv(heads)
    file.out.add_shortconv_l_cache(3)
    file.vector("token_embd_norm.weight", 1.0)
    for layer, kv_heads in enumerate(heads):
        prefix = f"blk.{layer}."
        file.vector(f"{prefix}attn_norm.weight", 1.0)
        if kv_heads:
            file.attention(prefix)
        else:
            file.matrix(f"{prefix}shortconv.conv.weight", WIDTH, 3)
            file.matrix(f"{prefix}shortconv.in_proj.weight", 3 * WIDTH, WIDTH, 2.0)
            file.matrix(f"{prefix}shortconv.out_proj.weight", WIDTH, WIDTH)
        file.feed_forward(prefix)


def _reshaped(file: _File, layers: int) -> None:
    """As RWKV 6: a state, and a graph that takes weights and layers' results in another shape."""
    file.out.add_feed_forward_length(INNER)
    file.out.add_head_count(0)
    for key, size in (("wkv.head_size", 32), ("time_mix_extra_dim", 8), ("time_decay_extra_dim", 8)):
        file.out.add_uint32(f"rwkv6.{key}", size)
    file.matrix("output.weight", file.words, WIDTH)
    norms = ["output_norm", "token_embd_norm"]
    for layer in range(layers):
        prefix = f"blk.{layer}."
        norms += [f"{prefix}{norm}" for norm in ("attn_norm", "attn_norm_2", "time_mix_ln")]
        for lerp in ("time_mix_lerp_x", "channel_mix_lerp_k", "channel_mix_lerp_r"):
            file.array(f"{prefix}{lerp}.weight", (1, 1, WIDTH))
        file.array(f"{prefix}time_mix_lerp_fused.weight", (5, 1, 1, WIDTH))
        file.array(f"{prefix}time_mix_w2.weight", (5, WIDTH, 8))
        file.array(f"{prefix}time_mix_first.weight", (WIDTH // 32, 32))
        file.array(f"{prefix}time_mix_decay.weight", (WIDTH,))
        for part, rows, columns in (("w1", 40, WIDTH), ("decay_w1", 8, WIDTH), ("decay_w2", WIDTH, 8)):
            file.matrix(f"{prefix}time_mix_{part}.weight", rows, columns)
        for part in ("key", "value", "receptance", "gate", "output"):
            file.matrix(f"{prefix}time_mix_{part}.weight", WIDTH, WIDTH)
        for part, rows, columns in (("key", INNER, WIDTH), ("value", WIDTH, INNER), ("receptance", WIDTH, WIDTH)):
            file.matrix(f"{prefix}channel_mix_{part}.weight", rows, columns)
    for norm in norms:
        file.vector(f"{norm}.weight", 1.0)
        file.vector(f"{norm}.bias", 0.0)


KINDS: dict[str, tuple[str, int, Callable[[_File, int], None]]] = {
    "window": ("gemma3", 6, _window),
    "recurrent": ("mamba", 2, _recurrent),
    "hybrid": ("lfm2", 4, _hybrid),
    "reshaped": ("rwkv6", 5, _reshaped),
}


def write(kind: str, path: Path, vocabulary: Path) -> Path:
    """A model of one of KINDS at `path`."""
    architecture, layers, fill = KINDS[kind]
    file = _File(path, architecture, layers, vocabulary)
    fill(file, layers)
    file.close()
    return path
