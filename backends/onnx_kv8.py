"""KV caches in 8 bits for graphs of ours: the graph that keeps them so, and what runs prompts beside it.

The kernel for 8-bit caches reads a quarter of the bytes, so decode behind a long prompt is faster, but it turns the
cache to float32 for every piece of a prompt, which is slower. So prompts run on the graph with float32 caches, over a
copy of one sequence that is kept equal to its 8-bit cells. Symmetric, with one scale for each channel of each head.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backends.engine import Floats
from backends.onnx_cells import KvCells, SharedCells
from backends.onnx_layout import Layout
from backends.onnx_runs import SharedRunner, Work, angles_of
from backends.onnx_session import open_session, options_for

SAMPLE = """The harbour was quiet at 6:40, and 17 boats lay by the wall. "Who moved the ladder?" asked Mrs O'Neill.
def area(w: float, h: float) -> float:\n    return w * h  # in m^2\n
Der Zug nach Köln fährt um acht ab; le dernier métro part à minuit et quart. La reunión empieza mañana a las nueve.
Вчера шёл снег, а сегодня тепло. 今天的天气很好，我们去公园散步。 東京は日本の首都です。 السلام عليكم، كيف حالك؟
{"name": "Ada", "age": 36, "tags": ["maths", "engines"], "ok": true, "score": -12.5e-3}
1. Boil the water. 2. Add 200 g of rice. 3. Wait for 12 minutes, then serve with lemon, salt & pepper!
SELECT id, total FROM orders WHERE total > 100 ORDER BY total DESC LIMIT 5; git commit -m "Fix the build"
The theory says that a body at rest stays at rest. However, in 1905 this was questioned; $E = mc^2$ followed soon.
User: Is 97 a prime number?\nAssistant: Yes. It has no divisors other than 1 and itself. 😀 Thank you so much!!!
"""
"""What scales are read from: texts that differ, since what a channel reaches matters, not how often."""
_MARGIN = 1.5
"""Times what the sample reaches, so that little is ever cut off; costs 0.6 of the 8 bits."""
_LEVELS = 127
MOST = 1024
"""Tokens of the sample that are read at most: a vocabulary without its scripts spells them in bytes."""
_ATTRIBUTES = ("k_quant_type", "v_quant_type", "kv_cache_bit_width")
_NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"

Scales = NDArray[np.float32]
"""Shape (layers, 2, kv_heads, 1, head_dim): of keys and values."""


def prefer_plain_attention() -> None:
    """Of the library's two ways through an 8-bit cache, take the one that decodes faster on CPUs. For this process."""
    os.environ.setdefault(_NO_FLASH, "1")


def found(graph: Path) -> Path | None:
    """The sound graph with 8-bit caches that was made from `graph`, if there is one. Its name holds its checksum."""
    for path in graph.parent.glob(f"{graph.stem}.kv8-*.onnx"):
        if path.stem.rpartition("-")[2] == f"{zlib.crc32(path.read_bytes()):08x}":
            return path
        path.unlink()
    return None


def derive(graph: Path, scales: Scales) -> Path:
    """Write, beside `graph` and over the same weights, the graph with 8-bit caches under these scales."""
    model = onnx.load(str(graph), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            _quantise(model.graph, node, scales)
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            value.type.tensor_type.elem_type = TensorProto.INT8
    data = model.SerializeToString()
    target = graph.with_name(f"{graph.stem}.kv8-{zlib.crc32(data):08x}.onnx")
    partial = target.with_suffix(f".{os.getpid()}")
    partial.write_bytes(data)
    os.replace(partial, target)
    return target


def _quantise(graph: onnx.GraphProto, node: onnx.NodeProto, scales: Scales) -> None:
    layer = int(node.input[3].split(".")[1])
    node.input.extend([""] * (12 - len(node.input)))
    for part, kind in enumerate("kv"):
        graph.initializer.append(numpy_helper.from_array(scales[layer, part], f"{layer}.{kind}_scale"))
        node.input.append(f"{layer}.{kind}_scale")
    kept = [attribute for attribute in node.attribute if attribute.name not in _ATTRIBUTES]
    del node.attribute[:]
    node.attribute.extend(kept)
    for name, value in zip(_ATTRIBUTES, ("PER_CHANNEL", "PER_CHANNEL", 8), strict=True):
        node.attribute.append(helper.make_attribute(name, value))


def prepared(graph: Path, layout: Layout, sample: Sequence[int], frequencies: Sequence[float]) -> Path:
    """The graph with 8-bit caches that goes with the float32 one at `graph`; made now, with scales from `sample`, the
    tokens of SAMPLE, where there is none yet."""
    there = found(graph)
    if there is not None:
        return there
    tokens = np.array([sample], np.int64)
    cells = SharedCells(layout, tokens.size, 1)
    runner = SharedRunner(layout, cells, angles_of(cells, frequencies))
    session = open_session(graph, graph.name, ["CPUExecutionProvider"], options_for(os.cpu_count() or 1))
    logits = np.empty((1, layout.vocab), np.float32)
    work = Work([0], [0], tokens, np.zeros(1, np.int64), logits)
    runner.run(session, work, ort.RunOptions())
    runner.close()
    return derive(graph, scales_for(cells, tokens.size))


def scales_in(graph: Path, layers: int) -> Scales:
    """Those that `derive` wrote into the graph."""
    model = onnx.load(str(graph), load_external_data=False)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_scale")}
    return np.array([[stored[f"{layer}.{kind}_scale"] for kind in "kv"] for layer in range(layers)], np.float32)


def scales_for(cells: SharedCells, tokens: int) -> Scales:
    """Scales that hold what the float32 `cells` of sequence 0 reach in the first `tokens` positions, and more.

    Rotary embeddings turn the halves of a key into each other, so a pair of channels gets one scale.
    """
    held = np.abs(cells.view(0, 0, tokens))
    first, second = np.split(held[:, 0], 2, axis=-1)
    held[:, 0] = np.concatenate([np.hypot(first, second)] * 2, axis=-1)
    reach = held.max(axis=-2, keepdims=True)
    scales: Scales = np.maximum(reach * (_MARGIN / _LEVELS), np.finfo(np.float32).tiny).astype(np.float32)
    return scales


class TwinRunner:
    """A `onnx_runs.Runner`: few tokens run on the 8-bit cells, prompts on the float32 copy of their sequence.

    The session given to `run` must be of the graph that goes with the number of tokens.
    """

    def __init__(self, short: SharedRunner, prompts: SharedRunner, scales: Scales, least: int) -> None:
        """Runs of `least` tokens and more are prompts."""
        self._short, self._prompts, self._least = short, prompts, least
        self._scales = scales
        self._owner = -1

    @property
    def cells(self) -> KvCells:
        return self._short.cells

    def order(self, seqs: Sequence[int]) -> list[int]:
        return self._short.order(seqs)

    def wrote(self, seq: int, length: int) -> None:
        self._short.wrote(seq, length)

    def cut(self, seq: int, pos: int) -> None:
        self._short.cut(seq, pos)
        if seq == self._owner:
            self._prompts.cut(0, pos)

    def close(self) -> None:
        self._short.close()
        self._prompts.close()

    def run(self, session: ort.InferenceSession, work: Work, options: ort.RunOptions) -> None:
        if work.tokens.shape[1] < self._least:
            self._short.run(session, work, options)
            return
        seq, held = work.seqs[0], work.held[0]
        self._follow(seq, held)
        self._prompts.run(session, replace(work, seqs=[0]), options)
        self._keep(seq, held, held + work.tokens.shape[1])

    def _follow(self, seq: int, held: int) -> None:
        """Make the copy hold the first `held` positions of `seq`."""
        copy = self._prompts.cells
        if seq != self._owner:
            self._prompts.cut(0, 0)
            self._owner = seq
        start = copy.lengths[0]
        if start < held:
            np.multiply(self._short.cells.view(seq, start, held), self._scales, out=copy.view(0, start, held))
        self._prompts.wrote(0, held)

    def _keep(self, seq: int, start: int, end: int) -> None:
        """Round what a prompt added to 8 bits, in the copy too: whoever reads the cells later computes the same."""
        copies, cells = self._prompts.cells.view(0, start, end), self._short.cells.view(seq, start, end)
        self._short.cells.writes(seq, end)
        inverse: Floats = 1.0 / self._scales
        for copy, cell, scale, back in zip(copies, cells, self._scales, inverse, strict=True):
            # Layer by layer, so that all of this stays in the processor's caches.
            rounded = np.rint(copy * back)
            np.clip(rounded, -_LEVELS, _LEVELS, out=rounded)
            cell[...] = rounded
            np.multiply(rounded, scale, out=copy)
        self._prompts.wrote(0, end)
