"""One answer's energy while it is made: whether its limit is reached, and in the end what it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from backends.contract import Job
from localai.config import Config
from localai.energy.budgets import DayBudget, check_limit
from localai.energy.figures import Energy
from localai.energy.meter import Meter
from localai.energy.on_battery import Saver
from localai.energy.pacing import Pacer
from localai.energy.taps import EngineKey, Rates

_CHECK_S = 0.02
_AHEAD = 1.5
"""Tokens that are made before an answer ends that is told to: one that runs, and half of one until it is seen."""
_MOST_AHEAD = 0.25
"""Share of its limit that an answer is ended ahead of at most."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How long an answer may get: each of `choices` ends at `most` tokens, or, where `fixed`, not before."""

    most: int | None = None
    choices: int = 1
    fixed: bool = False

    @classmethod
    def of(cls, job: Job) -> Shape:
        return cls(job.max_tokens, job.n, job.ignore_eos and job.max_tokens is not None)


class Spending:
    """An open job. `limit` is in joules, None for none."""

    def __init__(self, meter: Meter, job: int, key: EngineKey, limit: float | None) -> None:
        self._meter = meter
        token = (meter.token_joules(key) or 0.0) if limit else 0.0
        self._ahead = min(_AHEAD * token, _MOST_AHEAD * (limit or 0.0))
        self._job = job
        self._limit = limit
        self._checked = 0.0
        self._energy: Energy | None = None
        self.stopped = self.paced = ""
        self.whole = False
        """Whether the model itself ended its answer."""

    def over(self) -> bool:
        """Whether the limit is reached, as it becomes so; asked often, it looks fifty times a second."""
        now = time.monotonic()
        if self._limit is None or self.stopped or now - self._checked < _CHECK_S:
            return False
        self._checked = now
        spent, quality = self._meter.spent(self._job)
        if spent + self._ahead < self._limit:
            return False
        self.stopped = f"max_joules {self._limit:g} is reached at {spent:.3g} J ({quality})"
        return True

    def energy(self) -> Energy:
        """What it took; the job is over with the first call."""
        if self._energy is None:
            energy = self._meter.end(self._job, whole=self.whole)
            said = self.stopped or self.paced
            self._energy = replace(energy, stopped=self.stopped, paced=self.paced) if said else energy
        return self._energy


class Metering:
    """What a turn needs of energy: the meter, the day's budget, the pace of the engines, and what a battery changes."""

    def __init__(self, meter: Meter, day: DayBudget, pacer: Pacer | None = None, saver: Saver | None = None) -> None:
        self.meter = meter
        self.day = day
        self._pacer = pacer
        self._saver = saver

    def eased(self, config: Config) -> tuple[Config, str]:
        """`config`, or the thriftier settings of a machine on its battery, with the words for the answer's reason."""
        return self._saver.eased() if self._saver is not None else (config, "")

    @contextmanager
    def job(
        self,
        number: int,
        key: EngineKey,
        limit: float | None,
        record: Callable[[Energy], None],
        forecast: Rates | None = None,
        shape: Shape = Shape(),
    ) -> Iterator[Spending]:
        """Meter a job on the engine for `key`; `record` gets its figures, however it ends. Raises BadRequest.

        `forecast` says what its tokens take where no answer has told yet.
        """
        limit = self._saver.limit(limit) if self._saver is not None else limit
        if limit is not None:
            known = Rates(decode=self.meter.token_joules(key)).completed(forecast)
            check_limit(limit, known, self.meter.basis)
        self.meter.open(number, key, forecast, most=shape.most, choices=shape.choices, fixed=shape.fixed)
        self._adjust()
        spending = Spending(self.meter, number, key, limit)
        spending.paced = self._pacer.said if self._pacer is not None else ""
        try:
            yield spending
        finally:
            energy = spending.energy()
            self._adjust()
            self.day.add(energy)
            record(energy)

    def _adjust(self) -> None:
        if self._pacer is not None:
            self._pacer.adjust()
