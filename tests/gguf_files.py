"""Builds small GGUF files, honest ones and lying ones, byte by byte."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import gguf

from backends.ggml_types import SCALARS, TENSOR_TYPES
from tests.engine_runs import STARTER

CODES = {name: (number, code) for number, (name, code) in SCALARS.items()}
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": ("uint32", 7),
    "llama.context_length": ("uint32", 512),
    "llama.embedding_length": ("uint32", 64),
    "llama.block_count": ("uint32", 2),
    "llama.attention.head_count": ("uint32", 4),
    "llama.attention.head_count_kv": ("uint32", 2),
    "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(100)],
    "tokenizer.chat_template": "{{ messages }}",
}
WEIGHTS = [("token_embd.weight", (64, 100), 8), ("output_norm.weight", (64,), 0), ("blk.0.w", (64, 2), 8)]


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> bytes:
    """`str`, `(type name, number)`, `list[str]` or `(type name, [numbers])` with its type number in front."""
    if isinstance(value, (str, bytes)):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(item) for item in value)
    number, code = CODES[value[0]]
    if isinstance(value[1], list):
        body = b"".join(struct.pack(code, item) for item in value[1])
        return struct.pack("<IIQ", 9, number, len(value[1])) + body
    return struct.pack("<I", number) + struct.pack(code, value[1])


def tensor_bytes(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def size_of(shape: tuple[int, ...], kind: int) -> int:
    elements = 1
    for side in shape:
        elements *= side
    return elements // TENSOR_TYPES[kind].block * TENSOR_TYPES[kind].size


def gguf_bytes(
    metadata: dict[str, Any] | None = None,
    tensors: list[tuple[str, tuple[int, ...], int]] | None = None,
    *,
    alignment: int = 32,
    version: int = 3,
) -> bytes:
    metadata = LLAMA if metadata is None else metadata
    tensors = WEIGHTS if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value_bytes(value) for key, value in metadata.items())
    data = b""
    for name, shape, kind in tensors:
        head += tensor_bytes(name, shape, kind, len(data))
        data += b"\1" * size_of(shape, kind)
        data += b"\0" * (-len(data) % alignment)
    return head + (b"\0" * (-len(head) % alignment) + data if tensors else b"")


def llama_with(**changes: Any) -> bytes:
    """The tiny model with keys changed; `__` stands for a dot, None removes the key."""
    merged = LLAMA | {key.replace("__", "."): value for key, value in changes.items()}
    return gguf_bytes({key: value for key, value in merged.items() if value is not None})


def split_gguf(count: int) -> list[bytes]:
    """A model in `count` parts: metadata in the first, tensors in all."""
    parts = []
    for number in range(count):
        own = LLAMA if number == 0 else {"general.architecture": "llama"}
        split = {
            "split.no": ("uint16", number),
            "split.count": ("uint16", count),
            "split.tensors.count": ("int32", count),
        }
        parts.append(gguf_bytes(own | split, [(f"blk.{number}.w", (64, 4 + number), 8)]))
    return parts


def fields_of(path: Path) -> dict[str, gguf.ReaderField]:
    """The metadata of a file. The starter's, which take the package seconds, are read once."""
    return _starters() if path == STARTER else dict(gguf.GGUFReader(path).fields)


@cache
def _starters() -> dict[str, gguf.ReaderField]:
    return dict(gguf.GGUFReader(STARTER).fields)
