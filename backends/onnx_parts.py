"""A decoder of ours cut at its attention: sessions for what lies between, the attention itself left to the caller.

The path of a graph enters; for each step its parts run one after the other over a dictionary of named values. Knows
nothing of caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from backends.errors import UnsupportedModel
from backends.onnx_session import open_session

_FOLDER = "session.model_external_initializers_file_folder_path"
_ATTENTION = "GroupQueryAttention"

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Border:
    """One attention: the names of its packed or separate inputs and of its output, and its number of heads."""

    inputs: tuple[str, ...]
    output: str
    heads: int


@dataclass(frozen=True, slots=True)
class _Part:
    """What lies between two borders: which values it takes, which of them last, and which it leaves."""

    model: bytes
    takes: tuple[str, ...]
    last: tuple[str, ...]
    leaves: tuple[str, ...]


class Parts:
    """Sessions of one graph; part `i` comes before the attention `borders[i]`, the last one behind all."""

    def __init__(self, graph: Path, name: str, options: ort.SessionOptions) -> None:
        """Raises UnsupportedModel where the graph keeps no attention apart, ModelFileError where it is damaged."""
        model = onnx.load(str(graph), load_external_data=False)
        self.borders = [_border(node) for node in model.graph.node if node.op_type == _ATTENTION]
        if not self.borders:
            raise UnsupportedModel(f"{name}: its attention cannot be taken apart", "choose another mode (-B onnx)")
        options.add_session_config_entry(_FOLDER, str(graph.parent))
        self._parts = _cut(model)
        self._sessions = [open_session(part.model, name, ["CPUExecutionProvider"], options) for part in self._parts]

    def run(self, index: int, values: Values) -> None:
        """Run part `index` on `values`: what no later part takes goes, what it leaves comes.

        Raises `onnx_session.ERRORS`.
        """
        part = self._parts[index]
        found = self._sessions[index].run(part.leaves, {name: values[name] for name in part.takes})
        for name in part.last:
            del values[name]
        values.update(zip(part.leaves, found, strict=True))

    def close(self) -> None:
        self._sessions.clear()


def _border(node: onnx.NodeProto) -> Border:
    heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
    return Border(tuple(name for name in node.input[:3] if name), node.output[0], heads)


def _cut(model: onnx.ModelProto) -> list[_Part]:
    """The nodes between attentions; that they stand in the order of computing is the format's rule."""
    pieces: list[list[onnx.NodeProto]] = [[]]
    for node in model.graph.node:
        if node.op_type == _ATTENTION:
            pieces.append([])
        else:
            pieces[-1].append(node)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    known = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    wanted = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == _ATTENTION:
            wanted.update(node.input)
    parts: list[_Part] = []
    for nodes in reversed(pieces):
        made = {name for node in nodes for name in node.output if name}
        used = {name: None for node in nodes for name in node.input if name and name not in made}
        leaves = tuple(sorted(made & wanted))
        takes = tuple(name for name in used if name not in stored)
        last = tuple(name for name in takes if name not in wanted)
        wanted.update(takes)
        graph = helper.make_graph(
            nodes,
            "part",
            [_typed(name, known) for name in takes],
            [_typed(name, known) for name in leaves],
            [stored[name] for name in used if name in stored],
        )
        whole = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        parts.append(_Part(whole.SerializeToString(), takes, last, leaves))
    return parts[::-1]


def _typed(name: str, known: dict[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    return known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
