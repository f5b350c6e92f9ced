"""The step loop over the echo engine in this process, for tests that look at it turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Event, Finish, Job, Sampling, StepRecord, Token
from backends.echo import EchoEngine
from backends.sequences import Sequence, prepare
from backends.threads import ThreadGovernor
from backends.worker import open_store
from tests.engine_runs import echo_file, order

GREEDY = Sampling(temperature=0.0)
PER_TOKEN = 0.001


class Loop:
    """A batcher with its engine, whose steps are taken to cost a millisecond per token."""

    def __init__(
        self, folder: Path, first_line: str = "0", engine: type[EchoEngine] = EchoEngine, **fields: Any
    ) -> None:
        load = order(echo_file(folder, first_line), **fields)
        self.engine = engine(load, lambda *_: None)
        governor = ThreadGovernor((1,))
        for tokens in (1, 32, 512):
            governor.learn(1, tokens, tokens * PER_TOKEN)
        self.events: list[Event] = []
        self.records: list[StepRecord] = []
        self.store = open_store(self.engine, load)
        self.batcher = Batcher(self.engine, governor, self._take, load.step_seconds, self.store)
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
