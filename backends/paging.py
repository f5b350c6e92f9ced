"""Keeps a model's mapped weights inside a budget: what comes next is read ahead of its use, what is coldest goes.

Follows the graph through llama.cpp's eval callback: the router's choice names the experts of a layer, the end of a
dense layer names the next one. Knows addresses only through `weights`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.gguf import read_shards, shards
from backends.paging_layout import Layout, Unit, layout, total
from backends.weights import Extent, MappedWeights

_FADE = 0.9995
"""What an expert's heat keeps per step of its layer: about the last 2,000 tokens count."""
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
    """For one loaded model of which `budget` bytes of weights may be resident. One thread computes and calls back."""

    def __init__(self, path: Path, budget: int, progress: Callable[[float], None]) -> None:
        parts = shards(path)
        self._layout: Layout = layout(read_shards(path))
        self._weights = MappedWeights(parts)
        self._room = max(0, budget - self._layout.pinned_bytes)
        self._held: dict[Unit, int] = {}
        self.read_bytes = 0
        own = _Experts(self) if self._layout.used else _Layers(self)
        self._prefix, self._saw = own.prefix, own.saw
        self._begin(progress)
        own.begin()
        self.callback = llama.ggml_backend_sched_eval_callback(self._observe)

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

    def resident(self) -> dict[int, tuple[int, int]]:
        """Resident and all bytes of the paged weights, by layer."""
        found: dict[int, tuple[int, int]] = {}
        for (layer, _), extents in self.units.items():
            here, of = found.get(layer, (0, 0))
            found[layer] = here + self._weights.resident(extents), of + total(extents)
        return found

    def take(self, units: list[Unit]) -> None:
        """Read units; all of them are on their way before the first is waited for."""
        extents = [extent for unit in units for extent in self.units[unit]]
        for extent in extents:
            self._weights.announce(extent)
        for unit in units:
            self._held[unit] = total(self.units[unit])
            self.read_bytes += self._held[unit]
        for extent in extents:
            self._weights.populate(extent)

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

    def begin(self) -> None:
        self._pager.spread()

    def saw(self, layer: int, tensor: int) -> None:
        ids, counts = np.unique(_ids(tensor), return_counts=True)
        self._heat[layer] *= _FADE
        self._heat[layer, ids] += counts
        wanted = [(layer, int(expert)) for expert in ids]
        missing = [unit for unit in wanted if unit not in self._pager.held]
        if missing:
            self._make_room(sum(total(self._pager.units[unit]) for unit in missing), set(wanted))
            self._pager.take(self._that_fit(missing))

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
    """Some layers stay, evenly spread; while others run, the next one that does not is read, and dropped after use."""

    prefix = _LAYER_OUT

    def __init__(self, pager: Pager) -> None:
        self._pager = pager
        self._order = sorted(pager.units)
        self._stream: list[Unit] = []
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._coming: Future[None] | None = None

    def begin(self) -> None:
        sizes = {unit: total(self._pager.units[unit]) for unit in self._order}
        largest, count = max(sizes.values()), len(self._order)
        staying = max(0, min(count, (self._pager.room - 2 * largest) // largest))
        kept = {self._order[place * count // staying] for place in range(staying)} if staying else set()
        self._stream = [unit for unit in self._order if unit not in kept]
        for unit in sorted(kept):
            self._pager.take([unit])
        if self._stream:
            self._next(self._stream[0])

    def saw(self, layer: int, _: int) -> None:
        unit = (layer, 0)
        if unit not in self._stream:
            return
        if self._coming is not None:
            self._coming.result()
        self._pager.drop(unit)
        place = self._stream.index(unit)
        for ahead in (1, 2):
            following = self._stream[(place + ahead) % len(self._stream)]
            if following not in self._pager.held:
                self._next(following)

    def _next(self, unit: Unit) -> None:
        self._coming = self._reader.submit(self._pager.take, [unit])


def _ids(tensor: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The router's choices: rows of `ne[0]` ids, one per token, `nb[1]` bytes apart."""
    head = _Tensor.from_address(tensor)
    used, rows, stride = head.ne[0], head.ne[1], head.nb[1]
    size = (rows - 1) * stride + used * 4
    flat = np.frombuffer((ctypes.c_char * size).from_address(_base.ggml_get_data(tensor)), np.int32)
    return np.lib.stride_tricks.as_strided(flat, (rows, used), (stride, 4)).ravel()
