"""What the meter knows of each engine: its step records in, steps with their shares and the bytes that they moved out.

Engines speak one after the other of steps that ran side by side; a tap says up to when its engine is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.contract import EngineInfo, StepRecord
from localai.energy.attribution import Step
from localai.energy.shares import Part, StepCost

EngineKey = tuple[str, str, str]
"""File, backend and mode of an engine."""


@dataclass(slots=True)
class Rates:
    """Joules per token beyond idle, as running means of the answers before; None where there was none yet."""

    prefill: float | None = None
    decode: float | None = None


@dataclass(slots=True, eq=False)
class Tap:
    """One engine. `jobs` are those that are open now, with their tokens (prefilled, decoded)."""

    key: EngineKey
    info: EngineInfo | None = None
    jobs: dict[int, list[int]] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    known: float = 0.0
    _cost: StepCost = field(default_factory=StepCost)
    _last: Step | None = None
    _presumed: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether layers of the model are on a GPU."""
        return self.info is not None and bool(self.info.settings.get("gpu_layers", 0))

    def steps(self, record: StepRecord) -> tuple[Step, Step] | None:
        """The step by CPU time and by wall time; None where it was presumed already, or took no time."""
        self._cost.learn(record)
        for share in record.shares:
            if share.job in self.jobs:
                self.jobs[share.job][0] += share.prefilled
                self.jobs[share.job][1] += share.decoded
        begin = max(record.t0, self.known if self._presumed else record.t0)
        if record.t1 <= begin or not record.shares:
            return None
        parts = self._cost.parts(record)
        self.known, self._presumed = record.t1, False
        wall = record.t1 - begin
        effort = record.cpu_s * wall / (record.t1 - record.t0)
        self._last = Step(begin, record.t1, effort or wall, parts)
        return self._last, Step(begin, record.t1, wall, parts)

    def presume(self, now: float, ended: int) -> Step | None:
        """The step that runs now, as the last one went, without the job that has ended; its record will be cut."""
        if self._last is None or not self.jobs or now <= self.known:
            return None
        kept = [part for part in self._last.parts if part.job != ended and part.job in self.jobs]
        whole = sum(part.share for part in kept)
        if not whole:
            return None
        rate = self._last.effort / (self._last.t1 - self._last.t0)
        parts = tuple(Part(part.job, part.share / whole, part.prefill) for part in kept)
        step = Step(self.known, now, rate * (now - self.known), parts)
        self.known, self._presumed = now, True
        return step

    def bytes_moved(self, record: StepRecord) -> float:
        """Weights once, and each job's part of the cache."""
        if self.info is None:
            return 0.0
        cell = self.info.kv_bytes / max(1, self.info.n_ctx)
        return self.info.weight_bytes + cell * sum(share.context for share in record.shares)
