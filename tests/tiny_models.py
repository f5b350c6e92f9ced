"""Small decoders with random weights: GGUF files of the families that are converted, and hub exports in ONNX."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from gguf.quants import quantize
from onnx import TensorProto, helper, numpy_helper

from backends.gguf import read_header
from tests.engine_runs import STARTER

N_VOCAB = 260
_LAYERS, _WIDTH, _HEADS, _KV_HEADS, _FFN = 2, 64, 4, 2, 96


def byte_tokens() -> list[str]:
    """GPT-2's spelling of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelt = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [spelt[byte] for byte in range(256)]


def tiny_gguf(path: Path, family: str = "llama", kind: str = "Q4_1", **changes: Any) -> Path:
    """A model of `family` with matrices of the type `kind`; `changes` are further metadata, by key and value."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, family)
    head_dim = 32 if family == "qwen3" else _WIDTH // _HEADS
    writer.add_context_length(512)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_tokens(), "<|im_start|>", "<|im_end|>", "ab", "cd"])
    writer.add_token_types([1] * 256 + [3, 3, 1, 1])
    writer.add_token_merges(["a b", "c d"])
    writer.add_eos_token_id(257)
    for key, value in changes.items():
        name = f"{family}.{key.replace('__', '.')}"
        {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}[type(value)](
            name, value
        )
    _tensors(writer, rng, family, kind, head_dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(writer: gguf.GGUFWriter, rng: np.random.Generator, family: str, kind: str, head_dim: int) -> None:
    stored = gguf.GGMLQuantizationType[kind]

    def matrix(name: str, rows: int, columns: int) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5 + 0.02
        writer.add_tensor(name, quantize(values, stored), raw_dtype=stored)

    def vector(name: str, size: int, middle: float) -> None:
        writer.add_tensor(name, (middle + 0.1 * rng.standard_normal(size)).astype(np.float32))

    matrix("token_embd.weight", N_VOCAB, _WIDTH)
    vector("output_norm.weight", _WIDTH, 1.0)
    if family != "llama":
        matrix("output.weight", N_VOCAB, _WIDTH)
    for index in range(_LAYERS):
        at = f"blk.{index}."
        vector(f"{at}attn_norm.weight", _WIDTH, 1.0)
        vector(f"{at}ffn_norm.weight", _WIDTH, 1.0)
        for part, heads in (("q", _HEADS), ("k", _KV_HEADS), ("v", _KV_HEADS)):
            matrix(f"{at}attn_{part}.weight", heads * head_dim, _WIDTH)
            if family == "qwen2":
                vector(f"{at}attn_{part}.bias", heads * head_dim, 0.0)
        if family == "qwen3":
            vector(f"{at}attn_q_norm.weight", head_dim, 1.0)
            vector(f"{at}attn_k_norm.weight", head_dim, 1.0)
        matrix(f"{at}attn_output.weight", _WIDTH, _HEADS * head_dim)
        matrix(f"{at}ffn_gate.weight", _FFN, _WIDTH)
        matrix(f"{at}ffn_up.weight", _FFN, _WIDTH)
        matrix(f"{at}ffn_down.weight", _WIDTH, _FFN)


def shallow_starter(path: Path, layers: int = 2) -> Path:
    """The starter's first layers alone: a small model of its vocabulary that is mostly wrong."""
    raw, tensors = STARTER.read_bytes(), read_header(STARTER).tensors
    kept = [t for t in tensors if not (block := re.match(r"blk\.(\d+)", t.name)) or int(block[1]) < layers]
    # Metadata is copied as it stands, since 50,000 tokens one by one take seconds; only the depth is another.
    metadata = bytearray(raw[24 : raw.index(_text(tensors[0].name), 24)])
    at = metadata.index(_text("llama.block_count")) + len(_text("llama.block_count")) + 4
    metadata[at : at + 4] = struct.pack("<I", layers)
    infos, data, size = b"", [], 0
    for tensor in kept:
        infos += _text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos += struct.pack("<IQ", gguf.GGMLQuantizationType[tensor.type], size)
        data += [raw[tensor.offset : tensor.offset + tensor.size], b"\0" * (-tensor.size % 32)]
        size += tensor.size + -tensor.size % 32
    head = raw[:8] + struct.pack("<QQ", len(kept), struct.unpack_from("<Q", raw, 16)[0]) + metadata + infos
    path.write_bytes(b"".join([head, b"\0" * (-len(head) % 32), *data]))
    return path


def _text(text: str) -> bytes:
    """As GGUF files spell it."""
    return struct.pack("<Q", len(text)) + text.encode()


def tiny_export(folder: Path, *, genai: bool = False, foreign: str = "") -> Path:
    """A hub export without fused kernels: one layer of attention over embeddings, its cache made by concatenation.

    Weights are in `model.onnx.data`; `foreign` adds an input of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    graph = _attention_graph(rng, foreign)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=256)
    if genai:
        text = {"model": {"type": "llama", "context_length": 256, "decoder": {"filename": "model.onnx"}}}
        (folder / "genai_config.json").write_text(json.dumps(text), encoding="utf-8")
    else:
        config = {"model_type": "llama", "max_position_embeddings": 256, "hidden_size": _WIDTH}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    vocab = {token: index for index, token in enumerate([*byte_tokens(), "<|im_start|>", "<|im_end|>", "ab", "cd"])}
    special = [
        {"id": vocab[name], "content": name, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for name in ("<|im_start|>", "<|im_end|>")
    ]
    text = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["c", "d"]]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")


def _attention_graph(rng: np.random.Generator, foreign: str) -> onnx.GraphProto:
    """`softmax(q k' + mask) v` over two heads; positions count through an embedding of their own."""
    heads, dim = _KV_HEADS, _WIDTH // _KV_HEADS
    weights = {
        "tokens": rng.standard_normal((N_VOCAB, _WIDTH)),
        "places": rng.standard_normal((256, _WIDTH)),
        "head": rng.standard_normal((_WIDTH, N_VOCAB)),
    } | {name: rng.standard_normal((_WIDTH, _WIDTH)) * _WIDTH**-0.5 for name in ("q", "k", "v")}
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    numbers = {
        "split": [0, 0, heads, dim],
        "join": [0, 0, _WIDTH],
        "one": [1],
        "two": [2],
        "zero": [0],
        "end": [1 << 30],
    }
    stored += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    stored.append(numpy_helper.from_array(np.float32(-1e9), "never"))
    stored.append(numpy_helper.from_array(np.float32(dim**-0.5), "scale"))
    make = helper.make_node
    nodes = [make("Gather", ["tokens", "input_ids"], ["t"]), make("Gather", ["places", "position_ids"], ["p"])]
    nodes.append(make("Add", ["t", "p"], ["x"]))
    for part in "qkv":
        nodes.append(make("MatMul", ["x", part], [f"{part}0"]))
        nodes.append(make("Reshape", [f"{part}0", "split"], [f"{part}1"]))
        nodes.append(make("Transpose", [f"{part}1"], [f"{part}2"], perm=[0, 2, 1, 3]))
    nodes += [
        make("Concat", ["past_key_values.0.key", "k2"], ["present.0.key"], axis=2),
        make("Concat", ["past_key_values.0.value", "v2"], ["present.0.value"], axis=2),
        make("Transpose", ["present.0.key"], ["kt"], perm=[0, 1, 3, 2]),
        make("MatMul", ["q2", "kt"], ["s0"]),
        make("Mul", ["s0", "scale"], ["s1"]),
        # A key at place j counts for the query at place i if j <= i.
        make("CumSum", ["attention_mask", "axis"], ["order"]),
        make("Sub", ["order", "one"], ["keys"]),
        make("Unsqueeze", ["keys", "one_axis"], ["keys1"]),
        make("Unsqueeze", ["position_ids", "two"], ["queries"]),
        make("Greater", ["keys1", "queries"], ["later"]),
        make("Unsqueeze", ["later", "one_axis"], ["later1"]),
        make("Where", ["later1", "never", "s1"], ["s2"]),
        make("Softmax", ["s2"], ["w"], axis=-1),
        make("MatMul", ["w", "present.0.value"], ["m0"]),
        make("Transpose", ["m0"], ["m1"], perm=[0, 2, 1, 3]),
        make("Reshape", ["m1", "join"], ["m2"]),
        make("Add", ["m2", "x"], ["y"]),
        make("MatMul", ["y", "head"], ["logits"]),
    ]
    stored.append(numpy_helper.from_array(np.array(1, np.int64), "axis"))
    stored.append(numpy_helper.from_array(np.array([1], np.int64), "one_axis"))
    info = helper.make_tensor_value_info
    names = ["input_ids", "attention_mask", "position_ids"] + ([foreign] if foreign else [])
    inputs = [info(name, TensorProto.INT64, ["batch", f"{name}_length"]) for name in names]
    cache: list[str | int | None] = ["batch", heads, "past", dim]
    longer: list[str | int | None] = ["batch", heads, "all", dim]
    inputs += [info(f"past_key_values.0.{part}", TensorProto.FLOAT, cache) for part in ("key", "value")]
    outputs = [info("logits", TensorProto.FLOAT, ["batch", "length", N_VOCAB])]
    outputs += [info(f"present.0.{part}", TensorProto.FLOAT, longer) for part in ("key", "value")]
    return helper.make_graph(nodes, "export", inputs, outputs, stored)
