"""Keeps a model's mapped weights inside a budget: what comes next is read ahead of its use, what is coldest goes.

Follows the graph through llama.cpp's eval callback: the router's choice names the experts of a layer, the end of a
dense layer names the next one. Knows addresses only through `weights`.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.gguf import read_shards, shards
from backends.paging_clock import DiskClock
from backends.paging_layout import AHEAD, Layout, Unit, layout, total
from backends.paging_probe import probe
from backends.paging_report import WeightsReport, coverage
from backends.weights import Extent, MappedWeights

_FADE = 0.9995
"""What an expert's heat keeps per step of its layer: about the last 2,000 tokens count."""
_STEPS = 32
_WHOLE_BATCH = 512
_LEAST_BATCH = 64
"""As many as may want logits in a step."""
_TOPK, _LAYER_OUT = b"ffn_moe_topk-", b"l_out-"

_base = ctypes.CDLL(str(Path(llama.__file__).parent / "lib" / "libggml-base.so"))
_base.ggml_get_name.restype = ctypes.c_char_p
_base.ggml_get_name.argtypes = [ctypes.c_void_p]
_base.ggml_get_data.restype = ctypes.c_void_p
_base.ggml_get_data.argtypes = [ctypes.c_void_p]


class _Tensor(ctypes.Structure):
    """The head of ggml_tensor, as ggml.h of the pinned version has it."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    ]


class Pager:
    """For one loaded model of which `budget` bytes of weights may be resident. One thread computes and calls back.

    `helps` is False where the probe found that the kernel alone does better: then nothing is advised or read here.
    """

    def __init__(self, path: Path, budget: int, progress: Callable[[float], None]) -> None:
        parts = shards(path)
        self._layout: Layout = layout(read_shards(path))
        self._weights = MappedWeights(parts)
        self._budget = budget
        self._room = max(0, budget - self._layout.pinned_bytes)
        self._held: dict[Unit, int] = {}
        self._read_bytes = 0
        self._waited = 0.0
        self._compute: deque[float] = deque(maxlen=_STEPS)
        found = probe(self._weights, [self.units[unit] for unit in sorted(self.units)])
        self.helps = found.helps
        # What reads really bring here, several at a time, is worth more than the probe's few.
        self._clock = DiskClock(found.helped if found.helps else found.plain, self._stream_bytes)
        self._own = _Experts(self) if self._layout.used else _Layers(self)
        self._prefix, self._saw = self._own.prefix, self._own.saw
        self._begin(progress)
        if self.helps:
            self._own.begin()
        self.callback = llama.ggml_backend_sched_eval_callback(self._observe)

    @property
    def batch(self) -> int:
        """Most tokens in a step whose experts fit at the same time: what does not fit comes by single page faults."""
        largest = max(total(unit) for unit in self.units.values())
        layer = largest * sum(1 for unit in self.units if unit[0] == next(iter(self.units))[0])
        if not self._layout.used or layer <= self._room:
            return _WHOLE_BATCH
        return max(_LEAST_BATCH, min(_WHOLE_BATCH, self._room // (largest * self._layout.used)))

    def stepped(self, tokens: int, seconds: float) -> None:
        """Take note of a step that has ended."""
        if tokens == 1:
            self._compute.append(max(0.0, seconds - self._waited))
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def report(self) -> WeightsReport:
        """What is in memory now, asked of the kernel, and what to expect."""
        paged = sum(total(unit) for unit in self.units.values())
        layers = 1 + max(layer for layer, _ in self.units)
        share = self._layout.used * layers / len(self.units) if self._layout.used else 1.0
        return WeightsReport(
            help="paged" if self.helps else "mmap",
            budget=self._budget,
            resident=self._weights.resident(self._weights.whole()),
            pinned=self._layout.pinned_bytes,
            paged=paged,
            read=self._read_bytes,
            rate=self._clock.rate,
            rates=self._clock.span,
            token_bytes=int(share * paged),
            compute_s=median(self._compute) if self._compute else 0.0,
            coverage=self._own.coverage(),
            transit=self._layout.transit,
        )

    @property
    def _stream_bytes(self) -> int:
        """At most what one token brings from the disk."""
        paged = sum(total(unit) for unit in self.units.values())
        layers = len({layer for layer, _ in self.units})
        return min(paged, self._layout.used * layers * total(next(iter(self.units.values()))) or paged)

    @property
    def units(self) -> dict[Unit, tuple[Extent, ...]]:
        return self._layout.units

    @property
    def held(self) -> dict[Unit, int]:
        """What should be resident, in bytes."""
        return self._held

    @property
    def room(self) -> int:
        """Bytes for units."""
        return self._room

    @property
    def free(self) -> int:
        return self._room - sum(self._held.values())

    def take(self, units: list[Unit]) -> None:
        """Read units; all of them are on their way before the first is waited for."""
        extents = [extent for unit in units for extent in self.units[unit]]
        size = 0
        self._clock.begin()
        for extent in extents:
            self._weights.announce(extent)
        for unit in units:
            self._held[unit] = total(self.units[unit])
            size += self._held[unit]
        for extent in extents:
            self._weights.populate(extent)
        self._read_bytes += size
        self._clock.end(size)

    def drop(self, unit: Unit) -> None:
        self._held.pop(unit, None)
        for extent in self.units[unit]:
            self._weights.drop(extent)

    def spread(self) -> None:
        """Leave no read-ahead to the kernel: a fault among experts would bring megabytes of their neighbours."""
        self._weights.random(extent for extents in self.units.values() for extent in extents)

    def close(self) -> None:
        self._weights.close()

    def _begin(self, progress: Callable[[float], None]) -> None:
        """Give up what loading has brought, then read what every token needs."""
        # Whole parts at once: a large folio goes only where nothing of it is mapped.
        for part, size in enumerate(self._weights.sizes):
            self._weights.drop(Extent(part, 0, size))
        done, pinned = 0, self._layout.pinned
        for extent in pinned:
            self._weights.announce(extent)
        for extent in pinned:
            self._weights.populate(extent)
            done += extent.size
            progress(done / max(1, self._layout.pinned_bytes))

    def _observe(self, tensor: int, ask: bool, _: object) -> bool:
        name: bytes = _base.ggml_get_name(tensor)
        if ask:
            return name.startswith(self._prefix)
        if name.startswith(self._prefix):
            self._saw(int(name[len(self._prefix) :]), tensor)
        return True


class _Experts:
    """Before a layer's experts run, those that the router chose are read; the coldest ones make room."""

    prefix = _TOPK

    def __init__(self, pager: Pager) -> None:
        self._pager = pager
        layers, experts = (1 + max(unit[axis] for unit in pager.units) for axis in (0, 1))
        self._heat = np.zeros((layers, experts))
        self._picks = np.zeros((layers, experts))

    def begin(self) -> None:
        self._pager.spread()

    def coverage(self) -> tuple[float, ...]:
        units = self._pager.units
        return coverage([self._picks[unit] for unit in units])

    def saw(self, layer: int, tensor: int) -> None:
        ids, counts = np.unique(_ids(tensor), return_counts=True)
        self._heat[layer] *= _FADE
        self._heat[layer, ids] += counts
        self._picks[layer, ids] += counts
        wanted = [(layer, int(expert)) for expert in ids]
        missing = [unit for unit in wanted if unit not in self._pager.held]
        if missing:
            self._make_room(sum(total(self._pager.units[unit]) for unit in missing), set(wanted))
            begun = time.perf_counter()
            self._pager.take(self._that_fit(missing))
            self._pager.waited(time.perf_counter() - begun)

    def _make_room(self, need: int, keep: set[Unit]) -> None:
        if self._pager.free >= need:
            return
        for unit in sorted(self._pager.held.keys() - keep, key=lambda unit: self._heat[unit]):
            self._pager.drop(unit)
            if self._pager.free >= need:
                return

    def _that_fit(self, units: list[Unit]) -> list[Unit]:
        """A long prompt may touch more experts than there is room for; the rest come by page faults."""
        free, fitting = self._pager.free, []
        for unit in sorted(units, key=lambda unit: -self._heat[unit]):
            free -= total(self._pager.units[unit])
            if free >= 0:
                fitting.append(unit)
        return fitting


class _Layers:
    """Some layers stay, evenly spread; the others pass through, `AHEAD` of them being read while one computes."""

    prefix = _LAYER_OUT

    def __init__(self, pager: Pager) -> None:
        self._pager = pager
        self._order = sorted(pager.units)
        self._stream: list[Unit] = []
        self._reader = ThreadPoolExecutor(AHEAD, thread_name_prefix="weights")
        self._coming: dict[Unit, Future[None]] = {}

    def begin(self) -> None:
        largest, count = max(total(unit) for unit in self._pager.units.values()), len(self._order)
        staying = max(0, min(count, self._pager.room // largest - AHEAD - 1))
        kept = {self._order[place * count // staying] for place in range(staying)} if staying else set()
        self._stream = [unit for unit in self._order if unit not in kept]
        # In the order of their use, and not waited for: the first token computes with what is there already.
        for unit in self._order:
            if unit in kept or unit in self._stream[:AHEAD]:
                self._read(unit)

    def coverage(self) -> tuple[float, ...]:
        return ()

    def saw(self, layer: int, _: int) -> None:
        unit = (layer, 0)
        if unit in self._stream:
            self._pager.drop(unit)
            self._read(self._stream[(self._stream.index(unit) + AHEAD) % len(self._stream)])
        coming = self._coming.pop(self._order[(self._order.index(unit) + 1) % len(self._order)], None)
        if coming is not None:
            begun = time.perf_counter()
            coming.result()
            self._pager.waited(time.perf_counter() - begun)

    def _read(self, unit: Unit) -> None:
        if unit not in self._pager.held and unit not in self._coming:
            self._coming[unit] = self._reader.submit(self._pager.take, [unit])


def _ids(tensor: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The router's choices: rows of `ne[0]` ids, one per token, `nb[1]` bytes apart."""
    head = _Tensor.from_address(tensor)
    used, rows, stride = head.ne[0], head.ne[1], head.nb[1]
    size = (rows - 1) * stride + used * 4
    flat = np.frombuffer((ctypes.c_char * size).from_address(_base.ggml_get_data(tensor)), np.int32)
    return np.lib.stride_tricks.as_strided(flat, (rows, used), (stride, 4)).ravel()
