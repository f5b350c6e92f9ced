"""What the meter knows of each engine: its step records in, steps with their shares and the bytes that they moved out.

Engines speak one after the other of steps that ran side by side; a tap says up to when its engine is known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from backends.contract import EngineInfo, Share, StepRecord
from localai.energy.attribution import Step
from localai.energy.experience import Circumstances, Experience
from localai.energy.shares import Amount, Cost, Part, StepCost, amounts, units

EngineKey = tuple[str, str, str]
"""File, backend and mode of an engine."""


def digest(key: EngineKey) -> str:
    """What the ledger calls an engine by: no path of the user."""
    return hashlib.blake2b("\0".join(key).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Rates:
    """Joules per token or per unit of work beyond idle, in each phase; None where it is unknown."""

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
    """What an engine did for a job: its work and its shares of the steps' seconds, in each phase.

    `rates` are joules per token to expect where no answer has told, `per_unit` what answers before have told, by
    `cost`; `began` are the circumstances, `length` the tokens expected of each of `choices`.
    """

    rates: Rates = field(default_factory=Rates)
    per_unit: Rates = field(default_factory=Rates)
    cost: Cost = (1.0, 0.5, 0.0)
    began: Circumstances = Circumstances()
    length: int | None = None
    choices: int = 1
    prefill: Amount = Amount()
    decode: Amount = Amount()
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def did(self, share: Share, steps: float) -> None:
        """Note a share in so many steps."""
        tokens, looked = amounts(share)
        if share.prefilled:
            self.prefill = self.prefill.plus(steps, tokens, looked)
        else:
            self.decode = self.decode.plus(steps, tokens, looked)

    def predicted(self) -> float | None:
        """Joules that answers before led to expect of just this work; None where a phase of it is unknown."""
        return self._joules(self.decode)

    def forecast(self) -> float | None:
        """The same of an answer as long as was expected: all that was known when its prompt began to be read."""
        if self.length is None:
            return None
        # The first token of a choice comes out of prefill.
        tokens = float(self.choices * max(0, self.length - 1))
        depth = (self.prompt + self.length / 2) / 1000
        # One sequence has each step to itself, as far as anybody knows before.
        return self._joules(Amount(tokens / (self.choices * (1 + self.began.beside)), tokens, tokens * depth))

    @property
    def made(self) -> int:
        """Tokens per choice; the first comes out of prefill."""
        return round(self.decode.tokens / self.choices) + 1 if self.decode.tokens else 0

    @property
    def prompt(self) -> float:
        """Tokens that the answer looks back on, roughly."""
        looked = self.prefill.looked / self.prefill.tokens if self.prefill.tokens else 0.0
        return 1000 * looked + self.prefill.tokens / 2

    def _joules(self, decode: Amount) -> float | None:
        parts = (
            (self.per_unit.prefill, self.rates.prefill, self.prefill),
            (self.per_unit.decode, self.rates.decode, decode),
        )
        found = 0.0
        for by_unit, by_token, amount in parts:
            if not amount.tokens:
                continue
            if by_unit is not None:
                found += by_unit * units(self.cost, amount)
            elif by_token is not None:
                found += by_token * amount.tokens
            else:
                return None
        return found


@dataclass(slots=True, eq=False)
class Tap:
    """One engine. `jobs` are those that are open now, with what was done for them."""

    key: EngineKey
    info: EngineInfo | None = None
    jobs: dict[int, Work] = field(default_factory=dict)
    experience: Experience = field(default_factory=Experience)
    known: float = 0.0
    running: int = 0
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

    def begun(self, forecast: Rates | None, foreign: float, most: int | None, choices: int, *, fixed: bool) -> Work:
        """A job that begins now, beside those that are open, while other programs take `foreign` cores."""
        now = self.circumstances(foreign)
        cost = self._cost.cost
        return Work(
            rates=forecast or Rates(),
            per_unit=Rates(*self.experience.per_units(now, cost)),
            cost=cost,
            began=now,
            length=most if fixed else self.experience.length(most),
            choices=choices,
        )

    def circumstances(self, foreign: float) -> Circumstances:
        """As they are now."""
        return Circumstances(self.running or self.threads, len(self.jobs), foreign)

    def token_joules(self, foreign: float) -> float | None:
        """What a token of an answer should take now; None where none has told."""
        cost = self._cost.cost
        by_unit = self.experience.per_unit("decode", self.circumstances(foreign), cost)
        return None if by_unit is None else by_unit * units(cost, Amount(1.0, 1.0, self.experience.depth))

    def steps(self, record: StepRecord) -> tuple[Step, Step] | None:
        """The step by CPU time and by wall time; None where it was presumed already, or took no time."""
        self._cost.learn(record)
        self.running = record.threads
        for share in record.shares:
            if share.job in self.jobs:
                self.jobs[share.job].did(share, 1 / len(record.shares))
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
