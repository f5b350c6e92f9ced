"""Paging of a mixture of experts: before a layer's experts run, those that the router chose are in the mapping.

The coldest ones make room. What cannot be held comes by page faults, which is right, only slower.
"""

from __future__ import annotations

import time

import numpy as np

from backends import ggml_tensors
from backends.paging_clock import DiskClock
from backends.paging_layout import Layout, Unit, total
from backends.paging_report import coverage
from backends.weights import MappedWeights

_FADE = 0.9995
"""What an expert's heat keeps per step of its layer: about the last 2,000 tokens count."""


class Experts:
    """For a model mapped as `weights`, with `room` bytes for experts."""

    prefix = b"ffn_moe_topk-"
    resident = 0
    failed = None

    def __init__(self, layout: Layout, weights: MappedWeights, room: int) -> None:
        ggml_tensors.check_layout()
        self.waited = 0.0
        self.read_bytes = 0
        self._units = layout.units
        self._weights = weights
        self._room = room
        self._held: dict[Unit, int] = {}
        layers, experts = (1 + max(unit[axis] for unit in self._units) for axis in (0, 1))
        self._heat = np.zeros((layers, experts))
        self._picks = np.zeros((layers, experts))

    def begin(self, clock: DiskClock) -> None:
        """Leave no read-ahead to the kernel: a fault among experts would bring megabytes of their neighbours."""
        self._clock = clock
        self._weights.random(extent for extents in self._units.values() for extent in extents)

    def coverage(self) -> tuple[float, ...]:
        return coverage([self._picks[unit] for unit in self._units])

    def ask(self, tensor: int) -> None:
        pass

    def saw(self, layer: int, tensor: int) -> None:
        """The router has chosen."""
        ids, counts = np.unique(ggml_tensors.choices(tensor), return_counts=True)
        self._heat[layer] *= _FADE
        self._heat[layer, ids] += counts
        self._picks[layer, ids] += counts
        wanted = [(layer, int(expert)) for expert in ids]
        missing = [unit for unit in wanted if unit not in self._held]
        if missing:
            self._make_room(sum(total(self._units[unit]) for unit in missing), set(wanted))
            begun = time.perf_counter()
            self._take(self._that_fit(missing))
            self.waited += time.perf_counter() - begun

    def close(self) -> None:
        pass

    @property
    def _free(self) -> int:
        return self._room - sum(self._held.values())

    def _take(self, units: list[Unit]) -> None:
        """Read units; all of them are on their way before the first is waited for."""
        extents = [extent for unit in units for extent in self._units[unit]]
        self._clock.begin()
        for extent in extents:
            self._weights.announce(extent)
        for extent in extents:
            self._weights.populate(extent)
        self._clock.end(total(extents))
        self._held.update((unit, total(self._units[unit])) for unit in units)
        self.read_bytes += total(extents)

    def _make_room(self, need: int, keep: set[Unit]) -> None:
        if self._free >= need:
            return
        for unit in sorted(self._held.keys() - keep, key=lambda unit: self._heat[unit]):
            self._held.pop(unit)
            for extent in self._units[unit]:
                self._weights.drop(extent)
            if self._free >= need:
                return

    def _that_fit(self, units: list[Unit]) -> list[Unit]:
        """A long prompt may touch more experts than there is room for; the rest come by page faults."""
        free, fitting = self._free, []
        for unit in sorted(units, key=lambda unit: -self._heat[unit]):
            free -= total(self._units[unit])
            if free >= 0:
                fitting.append(unit)
        return fitting
