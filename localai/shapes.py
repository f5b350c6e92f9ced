"""From GGUF headers to the sizes that decide what a step costs. Pure; knows tensor names, not engines or devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from backends.gguf_header import GgufHeader, TensorInfo
from localai.readings import Shape

_LOOKED_UP = ("token_embd.", "token_types.", "position_embd.", "per_layer_token_embd.")
"""Tables of which a token reads one row."""
_EXPERTS = "_exps."

_WINDOW_EVERY: dict[str, int] = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2}
"""Of so many layers in a row, the last one sees everything and the others a window, as llama.cpp builds the graphs."""


def shape_of(headers: Sequence[GgufHeader]) -> Shape:
    """The shape of the model whose parts, in order, have these headers; the first carries the metadata.

    Raises ModelFileError where the metadata lacks the numbers.
    """
    first = headers[0]
    tensors = [tensor for header in headers for tensor in header.tensors]
    head = None if first.is_embedding else _head(tensors)
    matrices = [t for t in tensors if t is not head and not t.name.startswith(_LOOKED_UP)]
    experts = [t for t in matrices if _EXPERTS in t.name]
    dense = [t for t in matrices if _EXPERTS not in t.name]
    count, used = first.number("expert_count") or 0, first.number("expert_used_count") or 0
    share = min(1.0, used / count) if count else 1.0
    expert_bytes, expert_flops = sum(t.size for t in experts), int(share * _flops(experts))
    head_bytes = head.size if head else 0
    window, windowed = _window(first)
    return Shape(
        architecture=first.architecture,
        quant=first.quant,
        layers=first.n_layer or 0,
        width=first.n_embd or 0,
        weight_bytes=sum(t.size for t in dense) + int(share * expert_bytes) + head_bytes,
        resident_bytes=sum(t.size for t in tensors),
        flops=_flops(dense) + expert_flops,
        head_flops=_flops([head]) if head else 0,
        kv_values=int(first.kv_bytes_per_token("f32") / 4),
        attention_flops=_attention_flops(first),
        head_bytes=head_bytes,
        head_type=head.type if head else "",
        expert_bytes=expert_bytes,
        expert_flops=expert_flops,
        experts=count,
        experts_used=used,
        window=window,
        windowed=windowed,
        activations=_activations(dense) + used * _activations(experts),
    )


def resized(shape: Shape, quant: str, resident_bytes: int) -> Shape:
    """The same model in another quantisation of which only the size is known: all weights scale alike."""
    ratio = resident_bytes / shape.resident_bytes
    return replace(
        shape,
        quant=quant,
        resident_bytes=resident_bytes,
        weight_bytes=int(shape.weight_bytes * ratio),
        head_bytes=int(shape.head_bytes * ratio),
        expert_bytes=int(shape.expert_bytes * ratio),
    )


def _head(tensors: Sequence[TensorInfo]) -> TensorInfo | None:
    """The output layer; where there is none of its own, the token embedding serves as one."""
    by_name = {tensor.name: tensor for tensor in tensors}
    return by_name.get("output.weight") or by_name.get("token_embd.weight")


def _flops(tensors: Sequence[TensorInfo]) -> int:
    """Two per weight of a matrix; what has one axis only scales or shifts."""
    return sum(2 * prod(tensor.shape) for tensor in tensors if len(tensor.shape) > 1)


def _activations(tensors: Sequence[TensorInfo]) -> int:
    """What one token brings into and takes out of each matrix."""
    return sum(tensor.shape[0] + tensor.shape[1] for tensor in tensors if len(tensor.shape) > 1)


def _attention_flops(header: GgufHeader) -> int:
    """A product with every key and a sum over every value, for each query head of the layers that have a cache."""
    heads = header.per_layer("attention.head_count")
    cached = header.per_layer("attention.head_count_kv") or heads
    width, most = header.n_embd or 0, header.n_head or 1
    key = header.number("attention.key_length") or width // most
    value = header.number("attention.value_length") or width // most
    return sum(2 * count * (key + value) for count, kept in zip(heads, cached, strict=True) if kept)


def _window(header: GgufHeader) -> tuple[int, float]:
    """Tokens of the sliding window, and the share of the layers that have one; (0, 0) where none does."""
    width = header.number("attention.sliding_window") or 0
    every = _WINDOW_EVERY.get(header.architecture)
    return (width, 1 - 1 / every) if width and every else (0, 0.0)
