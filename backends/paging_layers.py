"""Paging of a dense model: some layers stay, evenly spread; the others pass through while those before them compute.

Layers lie in memory of their own (`layer_slots`), to which the tensors of the model are pointed while a layer is there;
else they point to the mapped file, which is always right, only slower. All happens between two layers' computations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from backends import ggml_tensors
from backends.layer_slots import LayerSlots
from backends.paging_clock import DiskClock
from backends.paging_layout import AHEAD, Layout, Unit
from backends.weights import MappedWeights

_READERS = 2
"""The second one's request is there when the first one's ends, so that the disk is never idle."""
_PASSES = 3
"""Times through all layers after which every tensor has been met: a prompt's, a single token's, and one to spare."""


class Layers:
    """For a model mapped as `weights`, with `room` bytes for layers."""

    prefix = b"l_out-"

    def __init__(self, layout: Layout, weights: MappedWeights, parts: Sequence[Path], room: int) -> None:
        ggml_tensors.check_layout()
        self.slots = LayerSlots(parts, layout.units)
        self.failed: OSError | None = None
        self.waited = 0.0
        self.read_bytes = 0
        self._order = sorted(layout.units)
        self._room = room
        self._owner: dict[int, Unit] = {}
        self._spots: dict[int, int] = {}
        for unit, extents in layout.units.items():
            for extent, at in self.slots.spots(unit, extents):
                self._owner[weights.address(extent)] = unit
                self._spots[weights.address(extent)] = at
        self._tensors: dict[Unit, dict[int, int]] = {unit: {} for unit in self._order}
        self._met: set[int] = set()
        self._passes = 0
        self._stream: list[Unit] = []
        self._here: dict[Unit, int] = {}
        self._coming: dict[Unit, tuple[int, Future[int]]] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="weights")

    @property
    def resident(self) -> int:
        """Bytes of layers that are in memory beside the mapping."""
        return sum(self.slots.size(unit) for unit in self._here)

    @property
    def shares(self) -> tuple[float, ...]:
        """For each layer 1 where it is here, else 0."""
        return tuple(float(unit in self._here) for unit in self._order)

    def coverage(self) -> tuple[float, ...]:
        return ()

    def begin(self, clock: DiskClock) -> None:
        """Read what stays and what comes first, in the order of use; not waited for: computing begins meanwhile."""
        self._clock = clock
        kept, count = self._division()
        self._stream = [unit for unit in self._order if unit not in kept]
        self.slots.divide(kept, count)
        for unit in self._order:
            if unit in self.slots.places or unit in self._stream[:count]:
                self._read(unit)

    def ask(self, tensor: int) -> None:
        """`tensor` is computed next: get to know the weights that it is computed from."""
        if self._passes < _PASSES:
            self._meet(tensor)
        if ggml_tensors.viewed(tensor) in self._met:
            ggml_tensors.follow(tensor)

    def _meet(self, tensor: int) -> None:
        for source, data in ggml_tensors.sources(tensor):
            unit = self._owner.get(data)
            # A view of weights lives as long as its graph; where it lay, the next graph has something else.
            if unit is not None and source not in self._met and not ggml_tensors.viewed(source):
                self._met.add(source)
                self._tensors[unit][source] = data
                if unit in self._coming:
                    self._arrive(unit)
                elif unit in self._here:
                    ggml_tensors.put(source, self._here[unit] + self._spots[data])

    def saw(self, layer: int, _: int) -> None:
        """A layer has been computed: its place goes to one that is needed sooner, and the next one must be there."""
        at = self._order.index((layer, 0))
        self._passes += at + 1 == len(self._order)
        wanted = self._next_of_stream(layer)
        for unit in [unit for unit in self._here if unit not in wanted and unit not in self.slots.places]:
            self._give_up(unit)
        for unit in wanted:
            if unit not in self._here and unit not in self._coming and self.slots.free:
                self._read(unit)
        following = self._order[(at + 1) % len(self._order)]
        if following in self._coming:
            self._arrive(following)

    def close(self) -> None:
        self._readers.shutdown(cancel_futures=True)
        self.slots.close()

    def _division(self) -> tuple[list[Unit], int]:
        """The units that stay, as many as leave room for the slots of the others, and the number of these slots."""
        sizes, count = {unit: self.slots.size(unit) for unit in self._order}, len(self._order)
        for staying in range(count, -1, -1):
            kept = {self._order[place * count // staying] for place in range(staying)}
            largest = max((sizes[unit] for unit in self._order if unit not in kept), default=0)
            slots = min(AHEAD + 1, count - staying)
            if sum(sizes[unit] for unit in kept) + slots * largest <= self._room:
                return sorted(kept), slots
        return [], self._room // max(sizes.values())

    def _next_of_stream(self, layer: int) -> list[Unit]:
        count = min(AHEAD + 1, len(self._stream))
        first = next((at for at, unit in enumerate(self._stream) if unit[0] > layer), 0)
        return [self._stream[(first + ahead) % len(self._stream)] for ahead in range(count)]

    def _read(self, unit: Unit) -> None:
        place = self.slots.places.get(unit) or self.slots.free.pop()
        self._coming[unit] = (place, self._readers.submit(self._fetch, unit, place))

    def _fetch(self, unit: Unit, place: int) -> int:
        self._clock.begin()
        size = 0
        try:
            size = self.slots.read(unit, place)
        finally:
            self._clock.end(size)
        return size

    def _arrive(self, unit: Unit) -> None:
        """Wait for a unit and use it. One that cannot be read is left to the mapping of the file."""
        begun = time.perf_counter()
        place, coming = self._coming.pop(unit)
        try:
            self.read_bytes += coming.result()
        except OSError as failed:
            self.failed = failed
            if unit not in self.slots.places:
                self.slots.free.append(place)
            return
        finally:
            self.waited += time.perf_counter() - begun
        self._here[unit] = place
        for tensor, data in self._tensors[unit].items():
            ggml_tensors.put(tensor, place + self._spots[data])

    def _give_up(self, unit: Unit) -> None:
        for tensor, data in self._tensors[unit].items():
            ggml_tensors.put(tensor, data)
        self.slots.free.append(self._here.pop(unit))
