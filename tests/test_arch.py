"""What `arch` says of the starter and of small files, what it refuses, and the values that tensors are read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from backends.arch import arch_of_config, arch_of_gguf
from backends.errors import ModelFileError, UnsupportedModel
from backends.gguf import read_shards
from backends.gguf_tensors import BLOCKS, GgufTensors, dequantize
from tests.engine_runs import STARTER
from tests.gguf_files import llama_with
from tests.tiny_models import tiny_gguf

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": 260,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def test_the_starter() -> None:
    arch = arch_of_gguf(STARTER.name, read_shards(STARTER))
    assert (arch.layers, arch.width, arch.heads, arch.kv_heads, arch.head_dim) == (30, 576, 9, 3, 64)
    assert (arch.vocab, arch.n_ctx_train, arch.tied, arch.rope_interleaved) == (49152, 8192, True, True)
    assert arch.inverse_frequencies()[1] == pytest.approx(100_000 ** (-2 / 64))
    assert len(arch.tensors()) == 272


@pytest.mark.parametrize(
    ("family", "bias", "norm", "interleaved"),
    [("llama", False, False, True), ("qwen2", True, False, False), ("qwen3", False, True, False)],
)
def test_families(tmp_path: Path, family: str, bias: bool, norm: bool, interleaved: bool) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", family)
    arch = arch_of_gguf(path.name, read_shards(path))
    assert (arch.qkv_bias, arch.qk_norm, arch.rope_interleaved) == (bias, norm, interleaved)
    assert arch.tied == (family == "llama")
    same = arch_of_config("tiny", CONFIG | {"model_type": family, "head_dim": arch.head_dim})
    assert (same.kv_width, same.qkv_bias, same.qk_norm) == (arch.kv_width, bias, norm)
    assert same.rope_interleaved is False


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope__scaling__type": "yarn"}, "'yarn'"),
        ({"expert_count": 8}, "experts"),
        ({"attention__sliding_window": 64}, "slides over 64"),
        ({"pooling_type": 1}, "pooling"),
    ],
    ids=["yarn", "experts", "window", "pooling"],
)
def test_variants_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tiny_gguf(tmp_path / "odd.gguf", "qwen2", **changes)
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        arch_of_gguf(path.name, read_shards(path))
    assert "odd.gguf" in caught.value.message
    assert "llama.cpp" in caught.value.hint


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(llama_with(**{"general.architecture": "gemma3"}))
    with pytest.raises(UnsupportedModel, match=r"x\.gguf: its architecture is 'gemma3'"):
        arch_of_gguf("x.gguf", read_shards(tmp_path / "x.gguf"))


def test_lacking_tensors_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(llama_with(llama__feed_forward_length=("uint32", 96)))
    with pytest.raises(ModelFileError, match=r"lacks 'blk\.0\.attn_norm\.weight'"):
        arch_of_gguf("x.gguf", read_shards(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gemma3"}, "gemma3"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "slides"),
    ],
    ids=["architecture", "rope", "bias", "activation", "window"],
)
def test_configs_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        arch_of_config("folder", CONFIG | changes)


def test_llama3_frequencies() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    arch = arch_of_config("folder", CONFIG | {"rope_theta": 5e5, "head_dim": 128, "rope_scaling": scaling})
    plain = arch_of_config("folder", CONFIG | {"rope_theta": 5e5, "head_dim": 128})
    ratio = np.array(plain.inverse_frequencies()) / np.array(arch.inverse_frequencies())
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(8.0)
    assert (np.diff(ratio) >= 0).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_values_of_each_type(tmp_path: Path, kind: str) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kind=kind)
    tensors = GgufTensors(path)
    stored = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_down.weight")
    expected = gguf.dequantize(stored.data, stored.tensor_type)
    assert tensors.floats("blk.1.ffn_down.weight").shape == (64, 96)
    np.testing.assert_array_equal(tensors.floats("blk.1.ffn_down.weight"), expected)


def test_values_of_six_bit_blocks() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (4, 210), dtype=np.uint8)
    raw[:, 208:] = np.array([0.25], np.float16).view(np.uint8)
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType.Q6_K)
    np.testing.assert_array_equal(dequantize("Q6_K", raw.view(BLOCKS["Q6_K"])).reshape(4, 256), expected)


def test_types_that_cannot_be_read(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kind="Q5_0")
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf: token_embd\.weight is stored as Q5_0"):
        GgufTensors(path).floats("token_embd.weight")
