"""One run of an ONNX decoder over the cells of its sequences: inputs bound, outputs gathered.

Knows what the graph's inputs mean (see `onnx_graph.build_graph` and the hub's names); not which sequences should run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from backends.engine import Floats
from backends.onnx_cells import GrowingCells, KvCells, SharedCells
from backends.onnx_layout import Layout

_BINDINGS = 64
_PARTS = ("key", "value")
_PLAIN = frozenset({"input_ids", "seqlens_k", "total", "rows", "cos", "sin"})
"""What graphs of ours are fed."""


@dataclass(frozen=True, slots=True)
class Work:
    """`tokens`, int64 of shape (sequences, count), follow the first `held` positions of `seqs`.

    `rows` are places in `tokens`, flattened, whose logits go to `logits` (float32, (rows, vocab)); `states` (float32,
    (tokens, width)) is filled where given.
    """

    seqs: Sequence[int]
    held: Sequence[int]
    tokens: NDArray[np.int64]
    rows: NDArray[np.int64]
    logits: Floats
    states: Floats | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A binding with the arrays that its inputs are read from."""

    binding: Any
    feeds: dict[str, NDArray[Any]]


class Runner(Protocol):
    """Runs work on a session; the cells' lengths stay as they were. Raises `onnx_session.ERRORS`."""

    @property
    def cells(self) -> KvCells: ...

    def order(self, seqs: Sequence[int]) -> list[int]:
        """The order in which `seqs` can run as one batch; for runners that are not `single`."""

    def run(self, session: ort.InferenceSession, work: Work, options: ort.RunOptions) -> None: ...

    def wrote(self, seq: int, length: int) -> None: ...

    def cut(self, seq: int, pos: int) -> None:
        """Forget what `seq` holds from `pos` on."""

    def close(self) -> None:
        """Let go of the sessions, which must outlive what is bound to them."""


class SharedRunner:
    """For graphs that write into buffers given to them."""

    def __init__(self, layout: Layout, cells: SharedCells, angles: Floats) -> None:
        self._cells = cells
        self._layout = layout
        self._cos, self._sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self._bound: dict[tuple[int, ...], Any] = {}
        self._ready: dict[tuple[int, ...], _Ready] = {}

    @property
    def cells(self) -> SharedCells:
        return self._cells

    def order(self, seqs: Sequence[int]) -> list[int]:
        return self._cells.gather(seqs)

    def wrote(self, seq: int, length: int) -> None:
        self._cells.wrote(seq, length)

    def cut(self, seq: int, pos: int) -> None:
        self._cells.trim(seq, pos)

    def run(self, session: ort.InferenceSession, work: Work, options: ort.RunOptions) -> None:
        first, count = self._cells.row(work.seqs[0]), len(work.seqs)
        for seq, held in zip(work.seqs, work.held, strict=True):
            self._cells.writes(seq, held + work.tokens.shape[1])
        if work.tokens.shape[1] == 1 and self._layout.feeds == _PLAIN and work.states is None:
            session.run_with_iobinding(self._decoding(session, first, count, work), options)
            return
        binding = self._binding(session, first, count, work.states is not None)
        feeds = feeds_of(self._layout, work) | {"cos": self._cos, "sin": self._sin}
        for name in self._layout.feeds:
            _bind(binding.bind_input, name, feeds[name])
        if work.states is not None:
            _bind(binding.bind_output, "states", work.states)
        if self._layout.rows:
            _bind(binding.bind_output, "logits", work.logits)
            session.run_with_iobinding(binding, options)
            return
        whole = np.empty((*work.tokens.shape, self._layout.vocab), self._layout.logits_type)
        _bind(binding.bind_output, "logits", whole)
        session.run_with_iobinding(binding, options)
        work.logits[:] = whole.reshape(-1, self._layout.vocab)[work.rows]

    def close(self) -> None:
        self._bound.clear()
        self._ready.clear()

    def _decoding(self, session: ort.InferenceSession, first: int, count: int, work: Work) -> Any:
        """The binding of a step of single tokens, with everything bound to arrays that only change their contents.

        Binding anew is quick in a loop of its own, but not between steps that have emptied the processor's caches.
        """
        key = (id(session), first, count, work.logits.__array_interface__["data"][0], work.rows.size)
        ready = self._ready.get(key)
        if ready is None:
            if len(self._ready) >= _BINDINGS:
                del self._ready[next(iter(self._ready))]
            feeds = feeds_of(self._layout, work) | {"cos": self._cos, "sin": self._sin}
            ready = _Ready(self._bind_cells(session.io_binding(), first, count), feeds)
            for name in self._layout.feeds:
                _bind(ready.binding.bind_input, name, feeds[name])
            _bind(ready.binding.bind_output, "logits", work.logits)
            self._ready[key] = ready
        ready.feeds["input_ids"][:] = work.tokens
        ready.feeds["seqlens_k"][:] = work.held
        ready.feeds["total"][0] = max(work.held) + 1
        ready.feeds["rows"][:] = work.rows
        return ready.binding

    def _binding(self, session: ort.InferenceSession, first: int, count: int, states: bool) -> Any:
        """A binding of the cache's rows; made anew, it costs two calls for each layer's keys and values."""
        key = (id(session), first, count, states)
        if key not in self._bound:
            if len(self._bound) >= _BINDINGS:
                del self._bound[next(iter(self._bound))]
            self._bound[key] = self._bind_cells(session.io_binding(), first, count)
        return self._bound[key]

    def _bind_cells(self, binding: Any, first: int, count: int) -> Any:
        layout = self._layout
        shape = (count, layout.kv_heads, self._cells.capacity, layout.head_dim)
        for layer in range(layout.layers):
            for part, name in enumerate(_PARTS):
                place = self._cells.address(layer, part, first)
                binding.bind_input(f"past_key_values.{layer}.{name}", "cpu", 0, layout.kv_type, shape, place)
                binding.bind_output(f"present.{layer}.{name}", "cpu", 0, layout.kv_type, shape, place)
        return binding


class GrowingRunner:
    """For graphs that take the cache as long as it is and hand back a longer one: one sequence at a time."""

    def __init__(self, layout: Layout, cells: GrowingCells) -> None:
        self._cells = cells
        self._layout = layout
        self._fresh: dict[int, list[NDArray[Any]]] = {}

    @property
    def cells(self) -> GrowingCells:
        return self._cells

    def order(self, seqs: Sequence[int]) -> list[int]:
        return list(seqs)

    def wrote(self, seq: int, length: int) -> None:
        self._cells.arrays[seq] = self._fresh.pop(seq)
        self._cells.lengths[seq] = length

    def cut(self, seq: int, pos: int) -> None:
        self._cells.trim(seq, pos)

    def close(self) -> None:
        self._fresh.clear()

    def run(self, session: ort.InferenceSession, work: Work, options: ort.RunOptions) -> None:
        layout, seq = self._layout, work.seqs[0]
        length = work.held[0] + work.tokens.shape[1]
        binding = session.io_binding()
        feeds = feeds_of(layout, work)
        for name in layout.feeds:
            _bind(binding.bind_input, name, feeds[name])
        fresh = [
            np.empty((1, layout.kv_heads, length, layout.head_dim), layout.kv_type) for _ in self._cells.arrays[seq]
        ]
        for index, (past, present) in enumerate(zip(self._cells.arrays[seq], fresh, strict=True)):
            layer, part = divmod(index, 2)
            _bind(binding.bind_input, f"past_key_values.{layer}.{_PARTS[part]}", past)
            _bind(binding.bind_output, f"present.{layer}.{_PARTS[part]}", present)
        whole = np.empty((*work.tokens.shape, layout.vocab), layout.logits_type)
        _bind(binding.bind_output, "logits", whole)
        session.run_with_iobinding(binding, options)
        self._fresh[seq] = fresh
        work.logits[:] = whole.reshape(-1, layout.vocab)[work.rows]


def angles_of(cells: SharedCells, frequencies: Sequence[float]) -> Floats:
    """The rotary angles of all positions, shape (capacity, head_dim / 2)."""
    return cast(Floats, np.outer(np.arange(cells.capacity), np.array(frequencies)))


def feeds_of(layout: Layout, work: Work) -> dict[str, NDArray[Any]]:
    """The inputs that tell a graph what is new and where it goes."""
    count, held = work.tokens.shape[1], np.array(work.held, np.int64)
    lengths = held + count
    total = int(lengths.max())
    feeds: dict[str, NDArray[Any]] = {
        "input_ids": work.tokens,
        "seqlens_k": (lengths - 1).astype(np.int32),
        "total": np.array([total], np.int32),
        "rows": work.rows,
    }
    if "attention_mask" in layout.feeds:
        feeds["attention_mask"] = (np.arange(total) < lengths[:, None]).astype(np.int64)
    if "position_ids" in layout.feeds:
        feeds["position_ids"] = held[:, None] + np.arange(count)
    return feeds


def _bind(bind: Any, name: str, values: NDArray[Any]) -> None:
    bind(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
