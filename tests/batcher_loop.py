"""The step loop over the echo engine in this process, for tests that look at it turn by turn."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Event, Finish, Job, Sampling, StepRecord, Token
from backends.echo import EchoEngine
from backends.engine import Floats, Interrupt, Slice
from backends.sequences import Sequence, prepare
from backends.threads import ThreadGovernor
from backends.worker import open_store
from tests.engine_runs import echo_file, order

GREEDY = Sampling(temperature=0.0)
PER_TOKEN = 0.001


class Timed(EchoEngine):
    """Takes a millisecond for a step and `per_token` seconds for each token of a prompt, on a clock of its own."""

    per_token = 0.0
    now = 0.0

    @classmethod
    def seconds(cls, tokens: int) -> float:
        return 0.001 + cls.per_token * (tokens if tokens > 1 else 0)

    def step(self, batch: Seq[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        self.now += self.seconds(sum(len(part.tokens) for part in batch if len(part.tokens) > 1))
        return super().step(batch, interrupt)


class Loop:
    """A batcher with its engine, whose steps are taken to cost a millisecond per token, or what a `Timed` one says."""

    def __init__(
        self, folder: Path, first_line: str = "0", engine: type[EchoEngine] = EchoEngine, **fields: Any
    ) -> None:
        load = order(echo_file(folder, first_line), **fields)
        self.engine = made = engine(load, lambda *_: None)
        timed, began = made if isinstance(made, Timed) else None, time.monotonic()
        governor = ThreadGovernor((1,))
        for tokens in (1, 32, 512):
            governor.learn(1, tokens, timed.seconds(tokens) if timed else tokens * PER_TOKEN)
        self.events: list[Event] = []
        self.records: list[StepRecord] = []
        self.store = open_store(self.engine, load)
        clock = (lambda: began + timed.now) if timed else time.monotonic
        self.batcher = Batcher(self.engine, governor, self._take, load.step_seconds, self.store, clock=clock)
        self.constraints = Constraints(self.engine.tokenizer)

    def _take(self, events: list[Event], record: StepRecord | None) -> None:
        self.events += events
        if record is not None:
            self.records.append(record)

    def prepare(self, number: int, prompt: int | str, **fields: Any) -> Sequence:
        tokens = list(prompt.encode()) if isinstance(prompt, str) else [65 + number] * prompt
        job = Job(id=number, tokens=tokens, **({"sampling": GREEDY} | fields))
        return prepare(job, self.engine.info(), self.engine.tokenizer, self.constraints)

    def add(self, number: int, prompt: int | str, *, waited: float = 0.0, **fields: Any) -> Sequence:
        sequence = self.prepare(number, prompt, **fields)
        sequence.submitted -= waited
        self.batcher.add(sequence)
        return sequence

    def run(self, turns: int = 10_000) -> None:
        while not self.batcher.idle and turns:
            turns -= 1
            self.batcher.turn()

    def text(self, number: int, index: int = 0) -> str:
        return "".join(
            e.text for e in self.events if isinstance(e, Token | Finish) and (e.job, e.index) == (number, index)
        )

    def ends(self) -> list[tuple[int, str]]:
        return [(e.job, e.reason) for e in self.events if isinstance(e, Finish)]
