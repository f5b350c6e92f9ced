"""Attention block by block: queries meet one block of keys and values at a time, and the softmax is summed up exactly.

The running maximum and sums are those of FlashAttention (Dao et al., 2022). Arrays enter and leave; knows no pages.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from backends.engine import Floats

_CONTRIB = "com.microsoft"
_OPEN = np.zeros((1, 1, 1), np.float32)
_HIDDEN = np.float32(-1e30)


class BlockAttention:
    """The kernel: one session for blocks of any length, heads of width `head_dim`."""

    def __init__(self, head_dim: int, options: ort.SessionOptions) -> None:
        self._session = ort.InferenceSession(_graph(head_dim), options, providers=["CPUExecutionProvider"])

    def start(self, queries: Floats) -> Mixing:
        """Begin for `queries` of shape (kv_heads, rows, head_dim)."""
        return Mixing(self._session, queries)


class Mixing:
    """What the queries of one step have gathered so far."""

    def __init__(self, session: Any, queries: Floats) -> None:
        self._session = session
        self._queries = queries
        self._parts: tuple[Floats, Floats, Floats] | None = None

    def add(self, keys: Floats, values: Floats, mask: Floats = _OPEN) -> None:
        """A block of shape (kv_heads, tokens, head_dim); `mask` is added to the scores."""
        feeds = {"q": self._queries, "k": keys, "v": values, "mask": mask}
        top, weight, mixed = self._session.run(None, feeds)
        if self._parts is not None:
            old_top, old_weight, old_mixed = self._parts
            new_top = np.maximum(old_top, top)
            kept, added = np.exp(old_top - new_top), np.exp(top - new_top)
            top, weight, mixed = new_top, old_weight * kept + weight * added, old_mixed * kept + mixed * added
        self._parts = top, weight, mixed

    def result(self) -> Floats:
        """The mixed values, shape (kv_heads, rows, head_dim)."""
        assert self._parts is not None
        _, weight, mixed = self._parts
        return cast(Floats, mixed / weight)


def causal(groups: int, count: int, held: int) -> Floats:
    """The mask for `count` new tokens of `groups` query heads each, over `held` tokens before them and themselves."""
    later = np.arange(held + count) > held + np.arange(count)[:, None]
    return np.tile(np.where(later, _HIDDEN, np.float32(0)), (groups, 1))[None]


def rotated(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotary embedding of `heads`, (tokens, heads, head_dim), by angles of shape (tokens, head_dim / 2)."""
    first, second = np.split(heads, 2, axis=-1)
    c, s = cos[:, None], sin[:, None]
    return np.concatenate([first * c - second * s, second * c + first * s], axis=-1)


def angles(frequencies: NDArray[np.float64], tokens: int) -> tuple[Floats, Floats]:
    """Cosines and sines for all positions, each of shape (tokens, head_dim / 2)."""
    turned = np.outer(np.arange(tokens), frequencies)
    return np.cos(turned).astype(np.float32), np.sin(turned).astype(np.float32)


def _graph(head_dim: int) -> bytes:
    nodes = [
        helper.make_node("FusedMatMul", ["q", "k"], ["raw"], domain=_CONTRIB, transB=1, alpha=head_dim**-0.5),
        helper.make_node("Add", ["raw", "mask"], ["scores"]),
        helper.make_node("ReduceMax", ["scores", "last"], ["top"], keepdims=1),
        helper.make_node("Sub", ["scores", "top"], ["below"]),
        helper.make_node("Exp", ["below"], ["weights"]),
        helper.make_node("ReduceSum", ["weights", "last"], ["weight"], keepdims=1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
    ]
    shapes: dict[str, list[str | int | None]] = {
        "q": ["H", "M", head_dim],
        "k": ["H", "N", head_dim],
        "v": ["H", "N", head_dim],
        "mask": [1, "A", "B"],
        "top": ["H", "M", 1],
        "weight": ["H", "M", 1],
        "mixed": ["H", "M", head_dim],
    }
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [-1])
    graph = helper.make_graph(nodes, "block", values[:4], values[4:], [last])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model
