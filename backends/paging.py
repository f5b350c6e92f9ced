"""Keeps a model's mapped weights inside a budget: what comes next is read ahead of its use, what is coldest goes.

Follows the graph through llama.cpp's eval callback: the router's choice names the experts of a layer, the end of a
dense layer names the next one. What is done about it is `paging_experts`' and `paging_layers`'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median

import llama_cpp.llama_cpp as llama

from backends import ggml_tensors
from backends.errors import BackendError
from backends.gguf import read_shards, shards
from backends.paging_clock import DiskClock
from backends.paging_experts import Experts
from backends.paging_layers import Layers
from backends.paging_layout import Layout, layout, total
from backends.paging_probe import probe
from backends.paging_report import WeightsReport
from backends.weights import Extent, MappedWeights

_STEPS = 32
_WHOLE_BATCH = 512
_LEAST_BATCH = 64
"""As many as may want logits in a step."""


class Pager:
    """For one loaded model of which `budget` bytes of weights may be resident. One thread computes and calls back.

    `helps` is False where the probe found that the kernel alone does better: then nothing is advised or read here.
    """

    def __init__(self, path: Path, budget: int, progress: Callable[[float], None]) -> None:
        parts = shards(path)
        self._layout: Layout = layout(read_shards(path))
        self._units = self._layout.units
        self._layers = self._layout.layers()
        self._weights = MappedWeights(parts)
        self._budget = budget
        self._room = max(0, budget - self._layout.pinned_bytes)
        self._compute: deque[float] = deque(maxlen=_STEPS)
        self._broken = False
        self._own: Experts | Layers
        some = [self._units[unit] for unit in sorted(self._units)]
        if self._layout.used:
            self._own = Experts(self._layout, self._weights, self._room)
            found = probe(self._weights, some)
        else:
            self._own = layers = Layers(self._layout, self._weights, parts, self._room)
            found = probe(self._weights, some, layers.slots.try_out)
        self._helps = found.helps
        # What reads really bring here, several at a time, is worth more than the probe's few.
        self._clock = DiskClock(found.helped if found.helps else found.plain, self._stream_bytes)
        self._begin(progress)
        if self.helps:
            self._weights.random(self._layout.table)
            self._own.begin(self._clock)
        self.callback = llama.ggml_backend_sched_eval_callback(self._observe)

    @property
    def helps(self) -> bool:
        return self._helps and not self._own.failed

    @property
    def batch(self) -> int:
        """Most tokens in a step whose experts fit at the same time: what does not fit comes by single page faults."""
        largest = max(total(unit) for unit in self._units.values())
        layer = largest * sum(1 for unit in self._units if unit[0] == next(iter(self._units))[0])
        if not self._layout.used or layer <= self._room:
            return _WHOLE_BATCH
        return max(_LEAST_BATCH, min(_WHOLE_BATCH, self._room // (largest * self._layout.used)))

    def stepped(self, tokens: int, seconds: float) -> None:
        """Take note of a step that has ended. Raises BackendError where it was not watched to its end."""
        broken, self._broken = self._broken, False
        if broken:
            raise BackendError("the paging of weights failed: the engine's log says why", "unload the model, ask again")
        if tokens == 1:
            self._compute.append(max(0.0, seconds - self._own.waited))
        self._own.waited = 0.0

    def report(self) -> WeightsReport:
        """What is in memory now, asked of the kernel, and what to expect."""
        paged = sum(total(unit) for unit in self._units.values())
        layers = 1 + max(layer for layer, _ in self._units)
        share = self._layout.used * layers / len(self._units) if self._layout.used else 1.0
        return WeightsReport(
            help="paged" if self.helps else "mmap",
            budget=self._budget,
            resident=self._resident(),
            pinned=self._layout.pinned_bytes,
            paged=paged,
            read=self._own.read_bytes,
            rate=self._clock.rate,
            rates=self._clock.span,
            token_bytes=int(share * paged),
            compute_s=median(self._compute) if self._compute else 0.0,
            coverage=self._own.coverage(),
            transit=self._layout.transit,
            failed=str(self._own.failed or ""),
            layers=self._shares(),
        )

    def _resident(self) -> int:
        """Where layers have memory of their own, what other programs hold of the file is theirs."""
        if self._layout.used or not self.helps:
            return self._weights.resident(self._weights.whole())
        return self._weights.resident((*self._layout.pinned, *self._layout.table)) + self._own.resident

    def _shares(self) -> tuple[float, ...]:
        """Of each layer's paged weights, what is in memory."""
        if isinstance(self._own, Layers) and self.helps:
            return self._own.shares
        return tuple(self._weights.resident(layer) / max(1, total(layer)) for layer in self._layers)

    @property
    def _stream_bytes(self) -> int:
        """At most what one token brings from the disk."""
        paged = sum(total(unit) for unit in self._units.values())
        layers = len({layer for layer, _ in self._units})
        return min(paged, self._layout.used * layers * total(next(iter(self._units.values()))) or paged)

    def close(self) -> None:
        self._own.close()
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
        if self._broken:
            return False
        # Until all went well: what is raised here ctypes drops, and the library ends the step as if it were whole.
        self._broken = True
        wanted = self._follow(tensor, ask)
        self._broken = False
        return wanted

    def _follow(self, tensor: int, ask: bool) -> bool:
        name, prefix = ggml_tensors.name_of(tensor), self._own.prefix
        layer = name[len(prefix) :] if name.startswith(prefix) else b""
        # A tensor that shows another one in a new shape has its name, and more behind it.
        ours = layer.isdigit()
        if ask:
            self._own.ask(tensor)
        elif ours:
            self._own.saw(int(layer), tensor)
        return ours or not ask
