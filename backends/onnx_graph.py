"""A decoder described by `arch` as an ONNX graph for ONNX Runtime's fused kernels.

Architecture, tensors and a form enter; nodes and initializers leave through a `Sink`. The graph's inputs and outputs
are described at `build_graph`. Knows nothing of files, sessions or caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from backends.arch import Arch, MlpRole, Role
from backends.gguf_tensors import GgufTensors
from backends.onnx_modes import Form
from backends.onnx_weights import (
    BLOCK,
    Packed,
    Weight,
    floats,
    in_eight_bits,
    offsets_as_columns,
    read_weight,
    split_halves,
    stack,
)

OPSET, CONTRIB = 21, "com.microsoft"


class Sink(Protocol):
    """Takes the values of initializers; `same_as` names one that holds the same bytes already."""

    def add(self, name: str, values: NDArray[Any], same_as: str = "") -> None: ...


def build_graph(arch: Arch, tensors: GgufTensors, form: Form, sink: Sink) -> onnx.GraphProto:
    """Inputs, for a batch of B sequences with S new tokens each, T rows of logits and caches of C positions:

    `input_ids` int64 (B, S); `seqlens_k` int32 (B,): positions held after the step, less one; `total` int32 (1,): the
    largest of them, plus one; `rows` int64 (T,): which of the B x S tokens logits are wanted of; `cos`, `sin` float32
    (C, head_dim / 2); `past_key_values.N.key` and `.value` float32 (B, kv_heads, C, head_dim).
    Outputs: `logits` float32 (T, vocab), `states` float32 (B x S, width), and `present.N.key`, `.value`, to be bound
    to the memory of the past ones. Raises UnsupportedModel where a tensor's type cannot be read.
    """
    return _Builder(arch, tensors, form, sink).build()


class _Builder:
    def __init__(self, arch: Arch, tensors: GgufTensors, form: Form, sink: Sink) -> None:
        self._arch, self._tensors, self._form, self._sink = arch, tensors, form, sink
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def build(self) -> onnx.GraphProto:
        arch = self._arch
        self._add("to_rows", np.array([-1, arch.width], np.int64))
        stream, change = self._embed(), ""
        for index in range(arch.layers):
            names = arch.layer(index)
            stream, change = self._attention(index, names, stream, change)
            stream, change = self._mlp(index, names, stream, change)
        states, _ = self._norm("final", "output_norm.weight", stream, change)
        self._node("Reshape", [states, "to_rows"], ["states"])
        self._node("Gather", ["states", "rows"], ["wanted"], axis=0)
        self._matmul("head", "wanted", self._head(), "logits")
        return helper.make_graph(self._nodes, "decoder", self._inputs(), self._outputs())

    # -- parts of the model

    def _embed(self) -> str:
        table = read_weight(self._tensors, "token_embd.weight")
        if isinstance(table, Packed) and table.bits == 8 and table.offsets is None:
            self._add("embedding.q", table.quants.reshape(table.rows, -1))
            self._add("embedding.s", table.scales)
            inputs = ["embedding.q", "input_ids", "embedding.s"]
            self._contrib("GatherBlockQuantized", inputs, ["embedded"], bits=8, block_size=table.block)
        else:
            self._add("embedding", floats(table))
            self._node("Gather", ["embedding", "input_ids"], ["embedded"])
        return "embedded"

    def _head(self) -> Weight:
        return read_weight(self._tensors, "token_embd.weight" if self._arch.tied else "output.weight")

    def _attention(self, index: int, names: dict[Role | MlpRole, str], stream: str, change: str) -> tuple[str, str]:
        arch, at = self._arch, f"{index}.attention"
        x, stream = self._norm(f"{at}.norm", names["attn_norm"], stream, change)
        order = (
            (split_halves(arch.heads, arch.heads * arch.head_dim), split_halves(arch.kv_heads, arch.kv_width), None)
            if arch.rope_interleaved
            else (None, None, None)
        )
        roles: tuple[Role, ...] = ("q", "k", "v")
        weights = [read_weight(self._tensors, names[r], o) for r, o in zip(roles, order, strict=True)]
        packed = self._side_by_side(f"{at}.qkv", x, weights)
        if arch.qkv_bias:
            biases: tuple[Role, ...] = ("q_bias", "k_bias", "v_bias")
            self._add(f"{at}.bias", np.concatenate([self._tensors.floats(names[role]) for role in biases]))
            packed = self._node("Add", [packed, f"{at}.bias"], [f"{at}.biased"])[0]
        mixed = self._grouped_attention(index, at, packed, names)
        return stream, self._matmul(f"{at}.o", mixed, read_weight(self._tensors, names["o"]), f"{at}.o")

    def _grouped_attention(self, index: int, at: str, packed: str, names: dict[Role | MlpRole, str]) -> str:
        arch = self._arch
        inputs = [packed, "", ""]
        if arch.qk_norm:
            inputs = self._normed_heads(at, packed, names)
        past = [f"past_key_values.{index}.key", f"past_key_values.{index}.value"]
        inputs += [*past, "seqlens_k", "total", "cos", "sin"]
        outputs = [f"{at}.mixed", f"present.{index}.key", f"present.{index}.value"]
        heads = {"num_heads": arch.heads, "kv_num_heads": arch.kv_heads}
        return self._contrib("GroupQueryAttention", inputs, outputs, do_rotary=1, rotary_interleaved=0, **heads)[0]

    def _normed_heads(self, at: str, packed: str, names: dict[Role | MlpRole, str]) -> list[str]:
        """Queries, keys and values apart, each head of the first two normalised: the fused kernel's own norm is not
        there on the CPU."""
        arch = self._arch
        widths = [arch.heads * arch.head_dim, arch.kv_width, arch.kv_width]
        self._add(f"{at}.widths", np.array(widths, np.int64))
        self._node("Split", [packed, f"{at}.widths"], [f"{at}.q", f"{at}.k", f"{at}.v"], axis=-1)
        roles: tuple[tuple[str, Role], ...] = (("q", "q_norm"), ("k", "k_norm"))
        for (part, role), width in zip(roles, widths, strict=False):
            self._add(f"{at}.{part}.heads", np.array([0, 0, width // arch.head_dim, arch.head_dim], np.int64))
            self._add(f"{at}.{part}.whole", np.array([0, 0, width], np.int64))
            self._node("Reshape", [f"{at}.{part}", f"{at}.{part}.heads"], [f"{at}.{part}.split"])
            split, _ = self._norm(f"{at}.{part}.norm", names[role], f"{at}.{part}.split", "")
            self._node("Reshape", [split, f"{at}.{part}.whole"], [f"{at}.{part}.normed"])
        return [f"{at}.q.normed", f"{at}.k.normed", f"{at}.v"]

    def _mlp(self, index: int, names: dict[Role | MlpRole, str], stream: str, change: str) -> tuple[str, str]:
        at = f"{index}.mlp"
        x, stream = self._norm(f"{at}.norm", names["ffn_norm"], stream, change)
        weights = [read_weight(self._tensors, names[role]) for role in ("gate", "up")]
        for part, weight in zip(("gate", "up"), weights, strict=True):
            self._matmul(f"{at}.{part}", x, weight, f"{at}.{part}")
        self._contrib("QuickGelu", [f"{at}.gate"], [f"{at}.open"], alpha=1.0)
        gated = self._node("Mul", [f"{at}.open", f"{at}.up"], [f"{at}.gated"])[0]
        return stream, self._matmul(f"{at}.down", gated, read_weight(self._tensors, names["down"]), f"{at}.down")

    # -- steps of computing

    def _norm(self, name: str, weight: str, stream: str, change: str) -> tuple[str, str]:
        """The normalised sum of `stream` and `change`, and the sum."""
        self._add(f"{name}.weight", self._tensors.floats(weight))
        if not change:
            out = self._node(
                "SimplifiedLayerNormalization", [stream, f"{name}.weight"], [name], axis=-1, epsilon=self._arch.eps
            )
            return out[0], stream
        inputs, outputs = [stream, change, f"{name}.weight"], [name, "", "", f"{name}.stream"]
        self._contrib("SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=self._arch.eps)
        return name, f"{name}.stream"

    def _side_by_side(self, name: str, x: str, weights: Sequence[Weight]) -> str:
        """The outputs of several matrices in one row: as one product where their layouts agree."""
        whole = stack(weights)
        if whole is not None:
            return self._matmul(name, x, whole, name)
        parts = [self._matmul(f"{name}.{i}", x, weight, f"{name}.{i}") for i, weight in enumerate(weights)]
        return self._node("Concat", parts, [name], axis=-1)[0]

    def _matmul(self, name: str, x: str, weight: Weight, out: str) -> str:
        if not isinstance(weight, Packed):
            self._add(f"{name}.w", np.ascontiguousarray(weight.T))
            return self._node("MatMul", [x, f"{name}.w"], [out])[0]
        if weight.offsets is not None and self._form.offsets == "apart":
            self._add(f"{name}.m", np.ascontiguousarray(weight.offsets.T))
            self._node("MatMul", [self._block_sums(x, weight.columns, 1), f"{name}.m"], [f"{name}.shift"])
            self._blockwise(name, x, replace(weight, offsets=None), f"{name}.scaled")
            return self._node("Add", [f"{name}.scaled", f"{name}.shift"], [out])[0]
        if self._form.offsets == "zeros" and weight.bits == 4:
            weight = in_eight_bits(weight)
        elif weight.offsets is not None:
            x, weight = self._extended(x, weight.columns), offsets_as_columns(weight)
        return self._blockwise(name, x, weight, out)

    def _blockwise(self, name: str, x: str, weight: Packed, out: str) -> str:
        self._add(f"{name}.q", weight.quants)
        self._add(f"{name}.s", weight.scales)
        inputs = [x, f"{name}.q", f"{name}.s"]
        if weight.zeros is not None:
            self._add(f"{name}.z", weight.zeros)
            inputs.append(f"{name}.z")
        sizes = {"K": weight.columns, "N": weight.rows, "bits": weight.bits, "block_size": weight.block}
        # Level 1 has no kernel of its own for 8 bits and would unpack the whole matrix at every step.
        level = self._form.accuracy if weight.bits == 4 else 4
        return self._contrib("MatMulNBits", inputs, [out], accuracy_level=level, **sizes)[0]

    def _extended(self, x: str, columns: int) -> str:
        """`x` followed twice by the sums over its blocks, padded to whole blocks."""
        name = f"{x}.extended"
        if name not in self._made:
            sums = self._block_sums(x, columns, BLOCK)
            self._made.add(name)
            self._node("Concat", [x, sums, sums], [name], axis=-1)
        return name

    def _block_sums(self, x: str, columns: int, multiple: int) -> str:
        """The sums of `x` over each block of columns, with zeros up to a multiple: what a block's offset multiplies."""
        name, table = f"{x}.sums", f"sums_of_{columns}"
        if name not in self._made:
            if table not in self._made:
                blocks = columns // BLOCK
                width = -(-blocks // multiple) * multiple
                self._add(table, np.repeat(np.eye(blocks, width, dtype=np.float32), BLOCK, axis=0))
            self._made |= {name, table}
            self._node("MatMul", [x, table], [name])
        return name

    # -- making the graph

    def _add(self, name: str, values: NDArray[Any], same_as: str = "") -> None:
        self._sink.add(name, values, same_as)

    def _node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> list[str]:
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def _contrib(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> list[str]:
        return self._node(kind, inputs, outputs, domain=CONTRIB, **attributes)

    def _caches(self, kind: str, length: str) -> list[onnx.ValueInfoProto]:
        shape: list[str | int | None] = ["B", self._arch.kv_heads, length, self._arch.head_dim]
        return [
            helper.make_tensor_value_info(f"{kind}.{index}.{part}", TensorProto.FLOAT, shape)
            for index in range(self._arch.layers)
            for part in ("key", "value")
        ]

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "S"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["B"]),
            helper.make_tensor_value_info("total", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("rows", TensorProto.INT64, ["T"]),
            helper.make_tensor_value_info("cos", TensorProto.FLOAT, ["P", self._arch.head_dim // 2]),
            helper.make_tensor_value_info("sin", TensorProto.FLOAT, ["P", self._arch.head_dim // 2]),
            *self._caches("past_key_values", "C"),
        ]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", self._arch.vocab]),
            helper.make_tensor_value_info("states", TensorProto.FLOAT, ["R", self._arch.width]),
            *self._caches("present", "C"),
        ]
