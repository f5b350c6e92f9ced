"""The usual sketch of a segment: the directions in which its rows differ most, turned, and rounded to 4 bits each.

Rows enter once, a query's products with all of them leave. A table of int4 is what runs language models, so the kernel
is ONNX Runtime's (MatMulNBits, int8 query): about 3 ms per million rows on one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors
from memory_store.shelf import HEAP

# Of the rows' squared length, how much the kept directions hold at least.
KEPT = 0.9
LEAST_WIDTH = 64
LONGEST_BLOCK = 256
# Steps of this many times the root mean square cut the fewest of normally distributed numbers short.
STEP = np.float32(0.36)
ROTATION_SEED = 20_261_121
MOST_THREADS = 4
# Below this many rows a second thread costs more than it brings.
ALONE = 32_768


class NibbleSketch:
    """width / 4 to width / 2 bytes a row and one scale, all of them compared each time."""

    sample_rows: ClassVar[int] = 6144

    def __init__(self, sample: Vectors, chunks: Iterable[Vectors], count: int) -> None:
        """`chunks`: (n, width) unit rows, `count` in all; `sample`: some of them, to choose the directions from."""
        self._basis = _basis(sample)
        width = self._basis.shape[1]
        codes, scales, done = np.empty((count, width // 2), np.uint8), np.empty(count, np.float32), 0
        for rows in chunks:
            here = slice(done, done + len(rows))
            codes[here], scales[here] = _rounded(rows @ self._basis)
            done += len(rows)
        self._session = _session(codes, scales, width)

    def compare(self, query: Vectors) -> tuple[Vectors, Vectors]:
        products, tops = self._session.run(None, {"query": (query @ self._basis)[None]})
        return products[0], tops


def _basis(sample: Vectors) -> Vectors:
    """(width, kept): the main directions, turned so that each of the kept numbers says as much as any other."""
    values, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    width, held = len(axes), np.cumsum(values[::-1]) / max(float(values.sum()), 1e-12)
    kept = LEAST_WIDTH
    while kept < width and held[kept - 1] < KEPT:
        kept *= 2
    basis = np.zeros((width, kept))
    used = min(width, kept)
    basis[:, :used] = axes[:, ::-1][:, :used]
    turn = np.linalg.qr(np.random.default_rng(ROTATION_SEED).standard_normal((kept, kept)))[0]
    turned: Vectors = (basis @ turn).astype(np.float32)
    return turned


def _rounded(rows: Vectors) -> tuple[npt.NDArray[np.uint8], Vectors]:
    """Codes, two to a byte and the first one low, from 0 to 15 for -8 to 7; scales with the least square error."""
    steps = np.sqrt(np.einsum("ij,ij->i", rows, rows) / rows.shape[1])[:, None] * STEP
    whole = np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0)
    np.clip(np.rint(whole, out=whole), -8, 7, out=whole)
    squares = np.einsum("ij,ij->i", whole, whole)
    scales = np.divide(np.einsum("ij,ij->i", whole, rows), squares, out=np.zeros_like(squares), where=squares > 0)
    small = (whole + 8).astype(np.uint8)
    return small[:, ::2] | small[:, 1::2] << 4, scales


def _session(codes: npt.NDArray[np.uint8], scales: Vectors, width: int) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    count, block = len(codes), min(width, LONGEST_BLOCK)
    tables = {"codes": codes.reshape(count, width // block, block // 2)}
    tables["scales"] = np.repeat(scales[:, None], width // block, axis=1)
    node = helper.make_node(
        "MatMulNBits",
        ["query", *tables],
        ["products"],
        domain="com.microsoft",
        K=width,
        N=count,
        bits=4,
        block_size=block,
        accuracy_level=4,
    )
    heaps = [
        helper.make_node("Reshape", ["products", "heaps"], ["heaped"]),
        helper.make_node("ReduceMax", ["heaped"], ["tops"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        [node, *heaps],
        "sketch",
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, [1, width])],
        [
            helper.make_tensor_value_info("products", TensorProto.FLOAT, [1, count]),
            helper.make_tensor_value_info("tops", TensorProto.FLOAT, [count // HEAP]),
        ],
        [
            helper.make_tensor("heaps", TensorProto.INT64, [2], [-1, HEAP]),
            *(_elsewhere(TensorProto(name=name), table) for name, table in tables.items()),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if count < ALONE else min(MOST_THREADS, os.cpu_count() or 1)
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(table) for table in tables.values()]
    options.add_external_initializers(list(tables), values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _elsewhere(tensor: Any, table: npt.NDArray[Any]) -> Any:
    """The description of a table that is handed over in memory."""
    from onnx import TensorProto

    tensor.data_type = TensorProto.UINT8 if table.dtype == np.uint8 else TensorProto.FLOAT
    tensor.data_location = TensorProto.EXTERNAL
    tensor.dims.extend(table.shape)
    for key, value in (("location", "memory"), ("offset", "0"), ("length", str(table.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor
