"""Writes LoRA adapters for the starter model with the `gguf` package, and the starter with adapters merged into it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from backends.gguf import read_header
from tests.gguf_files import tensor_bytes

ALIGNMENT = 32
TARGETS = tuple(f"blk.{layer}.{name}.weight" for layer in (4, 11, 19) for name in ("attn_q", "attn_v", "ffn_down"))
SHAPES = {"attn_q": (576, 576), "attn_v": (576, 192), "ffn_down": (1536, 576), "attn_k": (576, 192)}
"""Inputs and outputs of the starter's matrices."""

Factors = dict[str, tuple[Any, Any]]


def factors(seed: int, *, rank: int = 4, strength: float = 0.015, targets: Sequence[str] = TARGETS) -> Factors:
    """Random A of shape (rank, inputs) and B of shape (outputs, rank) for each target, float32."""
    rng = np.random.default_rng(seed)
    made = {}
    for target in targets:
        inputs, outputs = SHAPES[target.split(".")[2]]
        a = rng.standard_normal((rank, inputs)).astype(np.float32)
        made[target] = (a, strength * rng.standard_normal((outputs, rank)).astype(np.float32))
    return made


def write_lora(path: Path, pairs: Factors, *, alpha: float = 8.0, half: bool = False, **metadata: Any) -> Path:
    """An adapter as llama.cpp's converter writes it; `metadata` replaces keys, `__` standing for a dot."""
    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    keys |= {name.replace("__", "."): value for name, value in metadata.items()}
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for name, value in keys.items():
        writer.add_string(name, value)
    writer.add_float32("adapter.lora.alpha", alpha)
    for target, sides in pairs.items():
        for side, values in zip("ab", sides, strict=True):
            writer.add_tensor(f"{target}.lora_{side}", values.astype(np.float16) if half else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(path: Path, base: Path, deltas: Mapping[str, Any], targets: Sequence[str]) -> Path:
    """`base` with `targets` stored as F16, `deltas` of shape (outputs, inputs) added to them."""
    raw, tensors = base.read_bytes(), read_header(base).tensors
    first = raw.index(tensor_bytes(tensors[0].name, tensors[0].shape, 0, 0)[: 8 + len(tensors[0].name)], 24)
    table, data = b"", bytearray()
    for tensor in tensors:
        kind, content = gguf.GGMLQuantizationType[tensor.type], raw[tensor.offset : tensor.offset + tensor.size]
        if tensor.name in targets:
            rows = np.frombuffer(content, np.uint8).reshape(tensor.shape[1], -1)
            values = dequantize(rows, kind) + deltas.get(tensor.name, 0.0)
            kind, content = gguf.GGMLQuantizationType.F16, values.astype("<f2").tobytes()
        table += tensor_bytes(tensor.name, tensor.shape, int(kind), len(data))
        data += content + b"\0" * (-len(content) % ALIGNMENT)
    whole = raw[:8] + struct.pack("<QQ", len(tensors), struct.unpack_from("<Q", raw, 16)[0]) + raw[24:first] + table
    path.write_bytes(whole + b"\0" * (-len(whole) % ALIGNMENT) + data)
    return path
