"""What an ONNX decoder wants fed and how it keeps its KV cache, read from the graph itself.

The path of a `model.onnx` enters, ours or a hub export; a frozen Layout leaves, or an error that says which names are
foreign. Weights are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from backends.errors import ModelFileError, UnsupportedModel

FloatType = np.dtype[np.float32] | np.dtype[np.float16]
KvType = FloatType | np.dtype[np.int8]

_FEEDS = frozenset({"input_ids", "attention_mask", "position_ids", "seqlens_k", "total", "rows", "cos", "sin"})
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_PRESENT = "present.{}.{}"
_FLOATS: dict[int, FloatType] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}
_KV_TYPES: dict[int, KvType] = {**_FLOATS, TensorProto.INT8: np.dtype(np.int8)}
_AGAIN = "download the whole folder again"
_HINT = "llama.cpp serves a GGUF of this model: pull one, and choose that backend (-B llama.cpp)"


@dataclass(frozen=True, slots=True)
class Layout:
    """`feeds` are the inputs beside the cache. With `shared` the cache is written in place, in buffers of any length;
    without, the graph takes exactly what it holds and gives back a longer copy. With `rows` it is told which logits to
    compute, without it gives those of all tokens."""

    feeds: frozenset[str]
    layers: int
    kv_heads: int
    head_dim: int
    kv_type: KvType
    logits_type: FloatType
    vocab: int
    shared: bool
    states: bool

    @property
    def rows(self) -> bool:
        return "rows" in self.feeds

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values that one token adds."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_type.itemsize


def read_layout(path: Path, name: str) -> Layout:
    """Of the graph at `path`, called `name` in errors. Raises ModelFileError, UnsupportedModel."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (OSError, DecodeError, ValueError) as error:
        raise ModelFileError(f"{name} is no readable ONNX graph: {error}", "download it again") from error
    _check_data(path, graph)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in stored}
    past = {key: match for key in inputs if (match := _PAST.fullmatch(key))}
    _check_names(name, graph, set(inputs), set(past))
    layers = len(past) // 2
    shape, kind = _tensor(name, inputs["past_key_values.0.key"])
    logits, logits_kind = _tensor(name, next(value for value in graph.output if value.name == "logits"))
    if len(shape) != 4 or shape[1] <= 0 or shape[3] <= 0 or logits[-1] <= 0 or len(past) != 2 * layers:
        raise UnsupportedModel(f"{name}: its cache or its logits have no fixed width", _HINT)
    if kind not in _KV_TYPES or logits_kind not in _FLOATS:
        kinds = ", ".join(_type_name(each) for each in (kind, logits_kind))
        raise UnsupportedModel(f"{name}: its cache and logits have the types {kinds}", _HINT)
    taken = {key for node in graph.node if node.op_type == "GroupQueryAttention" for key in node.input}
    return Layout(
        feeds=frozenset(set(inputs) - set(past)),
        layers=layers,
        kv_heads=shape[1],
        head_dim=shape[3],
        kv_type=_KV_TYPES[kind],
        logits_type=_FLOATS[logits_kind],
        vocab=logits[-1],
        shared=set(past) <= taken,
        states=any(value.name == "states" for value in graph.output),
    )


def _check_data(path: Path, graph: onnx.GraphProto) -> None:
    """The files beside the graph must hold all the bytes that it takes from them."""
    sizes: dict[str, int] = {}
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        file = path.parent / location
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise ModelFileError(f"{path.name} takes weights from outside its folder", "do not use this export")
        if location not in sizes:
            sizes[location] = file.stat().st_size if file.is_file() else -1
        if sizes[location] < 0:
            raise ModelFileError(f"{location}, which holds weights of {path.name}, is missing", _AGAIN)
        if int(said.get("offset", 0)) + int(said.get("length", 0)) > sizes[location]:
            raise ModelFileError(f"{location} is cut short: it lacks weights of {path.name}", _AGAIN)


def _check_names(name: str, graph: onnx.GraphProto, inputs: set[str], past: set[str]) -> None:
    foreign = sorted(inputs - _FEEDS - past)
    if foreign:
        raise UnsupportedModel(f"{name} asks for inputs that are not known: {', '.join(foreign)}", _HINT)
    outputs = {value.name for value in graph.output}
    lacking = sorted({"input_ids", "past_key_values.0.key"} - inputs)
    wanted = {_PRESENT.format(*match.groups()) for key in past if (match := _PAST.fullmatch(key))}
    lacking += sorted(({"logits"} | wanted) - outputs)
    if lacking:
        raise UnsupportedModel(f"{name} lacks inputs or outputs of a text decoder: {', '.join(lacking[:4])}", _HINT)


def _tensor(name: str, value: onnx.ValueInfoProto) -> tuple[list[int], int]:
    """Shape and element type; 0 for a free dimension."""
    if not value.type.HasField("tensor_type"):
        raise UnsupportedModel(f"{name}: {value.name} is not a tensor", _HINT)
    kind = value.type.tensor_type
    return [dim.dim_value for dim in kind.shape.dim], kind.elem_type


def _type_name(kind: int) -> str:
    return next((name for name, number in TensorProto.DataType.items() if number == kind), str(kind))
