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

    def completed(self, other: Rates | None) -> Rates:
        """These, and of `other` what is unknown here."""
        known = other or Rates()
        return Rates(
            known.prefill if self.prefill is None else self.prefill,
            known.decode if self.decode is None else self.decode,
        )


@dataclass(slots=True)
class Work:
    """What an engine did for a job: tokens and its shares of the steps' seconds. `expected` are the rates before it."""

    expected: Rates
    prefilled: int = 0
    decoded: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def predicted(self) -> float | None:
        """Joules that the rates from before say so many tokens take; None where one of them is unknown."""
        parts = [(self.expected.prefill, self.prefilled), (self.expected.decode, self.decoded)]
        if any(rate is None and count for rate, count in parts):
            return None
        return sum((rate or 0.0) * count for rate, count in parts)


@dataclass(slots=True, eq=False)
class Tap:
    """One engine. `jobs` are those that are open now, with what was done for them."""

    key: EngineKey
    info: EngineInfo | None = None
    jobs: dict[int, Work] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    known: float = 0.0
    _cost: StepCost = field(default_factory=StepCost)
    _last: Step | None = None
    _presumed: bool = False

    @property
    def threads(self) -> int:
        """Threads that it was loaded with, 0 where that is not known."""
        return int(self.info.settings.get("threads", 0)) if self.info is not None else 0

    @property
    def on_gpu(self) -> bool:
        """Whether layers of the model are on a GPU."""
        return self.info is not None and bool(self.info.settings.get("gpu_layers", 0))

    def steps(self, record: StepRecord) -> tuple[Step, Step] | None:
        """The step by CPU time and by wall time; None where it was presumed already, or took no time."""
        self._cost.learn(record)
        for share in record.shares:
            if share.job in self.jobs:
                self.jobs[share.job].prefilled += share.prefilled
                self.jobs[share.job].decoded += share.decoded
        begin = max(record.t0, self.known if self._presumed else record.t0)
        if record.t1 <= begin or not record.shares:
            return None
        parts = self._cost.parts(record)
        for part in parts:
            if part.job in self.jobs and part.prefill:
                self.jobs[part.job].prefill_s += part.share * (record.t1 - record.t0)
            elif part.job in self.jobs:
                self.jobs[part.job].decode_s += part.share * (record.t1 - record.t0)
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
