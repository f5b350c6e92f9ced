"""Folders as mlx-lm writes them, made from the tensors of a GGUF file, so that both hold one and the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from backends.arch import Arch, arch_of_gguf
from backends.convert_mlx import FOLDER_NAMES, FOLDER_TOP
from backends.gguf_tensors import GgufTensors
from tests.vocab_json import write_tokenizer

GROUP = 32


def mlx_folder(source: Path, folder: Path, *, bits: int = 0, own: dict[str, int] | None = None) -> Path:
    """`bits` quantises the matrices (0: float32); `own` gives some, by name, another number of bits."""
    tensors = GgufTensors(source)
    arch = arch_of_gguf(source.name, tensors.headers)
    config = _config(arch)
    if bits:
        every: dict[str, Any] = {"group_size": GROUP, "bits": bits}
        config["quantization"] = every | {name: {"group_size": GROUP, "bits": n} for name, n in (own or {}).items()}
    stored: dict[str, mx.array] = {}
    for name, gguf_name, heads in _tensors(arch):
        values = tensors.floats(gguf_name)
        if heads and arch.rope_interleaved:
            # GGUF files of llama turn neighbours, folders turn halves.
            values = values.reshape(heads, arch.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        base = name.removesuffix(".weight")
        if bits and values.ndim == 2:
            packed = mx.quantize(mx.array(values), GROUP, (own or {}).get(base, bits))
            stored |= dict(zip((f"{base}.weight", f"{base}.scales", f"{base}.biases"), packed, strict=True))
        else:
            stored[name if values.ndim == 1 else f"{base}.weight"] = mx.array(values)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), stored)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return write_tokenizer(source, folder)


def _tensors(arch: Arch) -> list[tuple[str, str, int]]:
    """Names in the folder and in the file, and over how many turned heads the rows go."""
    heads = {"q": arch.heads, "k": arch.kv_heads}
    found = [(FOLDER_TOP[role], name, 0) for role, name in arch.top().items()]
    for index in range(arch.layers):
        at = f"model.layers.{index}."
        found += [(at + FOLDER_NAMES[role], name, heads.get(role, 0)) for role, name in arch.layer(index).items()]
    return found


def _config(arch: Arch) -> dict[str, Any]:
    return {
        "model_type": arch.family,
        "hidden_size": arch.width,
        "num_hidden_layers": arch.layers,
        "intermediate_size": arch.ffn,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "rms_norm_eps": arch.eps,
        "rope_theta": arch.rope_theta,
        "vocab_size": arch.vocab,
        "max_position_embeddings": arch.n_ctx_train,
        "tie_word_embeddings": arch.tied,
    }
