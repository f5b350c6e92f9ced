"""Guessed tokens: the text stays what it is without them, whatever draws it, and they cost nothing where they fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Event, Finish, Grammar, Job, Sampling, StepRecord, Token
from backends.draft import DraftModel
from backends.echo import EchoEngine
from backends.engine import Engine
from backends.errors import UnsupportedModel
from backends.lookup import Lookup
from backends.registry import open_engine
from backends.sequences import prepare
from backends.threads import ThreadGovernor
from tests.engine_runs import STARTER, echo_file, order

_POEM = "one two three four five six seven eight nine ten eleven twelve. "
_ANSWER = Sampling(temperature=0.0)
_CASES = {
    "greedy": {},
    "sampled": {"sampling": Sampling(temperature=0.7, seed=3)},
    "penalties": {"sampling": Sampling(temperature=0.5, seed=4, repeat_penalty=1.01)},
    "mirostat": {"sampling": Sampling(temperature=0.6, seed=5, mirostat=2)},
    "dry": {"sampling": Sampling(temperature=0.4, seed=6, dry_multiplier=0.2, dry_allowed_length=12)},
    "grammar": {"grammar": Grammar("regex", r"([a-z]+[ .]+){1,24}")},
    "logprobs": {"logprobs": 2},
    "stop": {"stop": ("nine ten",)},
}


class Fixed(ThreadGovernor):
    """Keeps the costs that it was given, so that the machine's own do not decide what is tested."""

    def after_step(self, tokens: int, seconds: float, now: float, depth: int = 0, reach: int = 0) -> int | None:
        return None


class Loop:
    """The step loop over one real engine; costs are set so that guessing always looks cheap."""

    def __init__(self, engine: Engine, draft: DraftModel | None = None) -> None:
        self.events: list[Event] = []
        self.records: list[StepRecord] = []
        self.engine, self.draft = engine, draft
        self.constraints = Constraints(engine.tokenizer)

    def run(self, text: str, **fields: object) -> list[Event]:
        """Answer from empty cells; return all events but times."""
        self.events, self.records = [], []
        for seq in range(self.engine.info().n_seq):
            self.engine.drop(seq)
        governor = Fixed((1,))
        for tokens in (1, 2, 4, 8, 16, 32):
            governor.learn(1, tokens, 1.0 + 0.01 * tokens)
        batcher = Batcher(self.engine, governor, self._take, 0.15, draft=self.draft)
        tokens = self.engine.tokenizer.encode(text, special=True, add_bos=False)
        made = Job(**({"id": 1, "tokens": tokens, "sampling": _ANSWER, "max_tokens": 48} | fields))  # type: ignore
        batcher.add(prepare(made, self.engine.info(), self.engine.tokenizer, self.constraints))
        while not batcher.idle:
            batcher.turn()
        return [e for e in self.events if isinstance(e, Token | Finish)]

    def _take(self, events: list[Event], record: StepRecord | None) -> None:
        self.events += events
        if record is not None:
            self.records.append(record)

    @property
    def drafted(self) -> tuple[int, int]:
        shares = [share for record in self.records for share in record.shares]
        return sum(s.drafted for s in shares), sum(s.accepted for s in shares)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = open_engine(order(STARTER, "llama.cpp", n_ctx=1024, n_seq=4), lambda *_: None)
    yield made
    made.close()


def plain(events: list[Event]) -> list[tuple[object, ...]]:
    said: list[tuple[object, ...]] = []
    for e in events:
        if isinstance(e, Token):
            said.append((e.index, e.id, e.text, round(e.logprob.logprob or 0.0, 3) if e.logprob else None))
        elif isinstance(e, Finish):
            said.append((e.index, e.reason, e.text, e.stop))
    return sorted(said, key=lambda s: s[0] if isinstance(s[0], int) else 0)


@pytest.mark.parametrize("fields", _CASES.values(), ids=_CASES.keys())
def test_the_answer_is_the_same(engine: Engine, fields: dict[str, object]) -> None:
    loop = Loop(engine)
    without = loop.run(_POEM * 4, **fields, speculation="off")
    assert loop.drafted == (0, 0)
    steps = len(loop.records)
    assert plain(loop.run(_POEM * 4, **fields)) == plain(without)
    assert 0 < loop.drafted[1] <= loop.drafted[0]
    assert len(loop.records) < steps


def test_cells_hold_the_answer_and_nothing_else(engine: Engine) -> None:
    loop = Loop(engine)
    loop.run(_POEM * 4, max_tokens=20)
    assert loop.records[-1].shares[0].context == sum(
        (loop.records[0].shares[0].prefilled, *(s.decoded for r in loop.records for s in r.shares))
    )
    assert sum(s.decoded for r in loop.records for s in r.shares) == 19


def test_a_draft_model_guesses_what_it_would_say(engine: Engine) -> None:
    small = open_engine(order(STARTER, "llama.cpp", n_ctx=1024, n_seq=4), lambda *_: None)
    draft = DraftModel(small, engine.tokenizer)
    text = "The capital of France is"
    without = Loop(engine).run(text, max_tokens=24)
    loop = Loop(engine, draft)
    assert plain(loop.run(text, max_tokens=24)) == plain(without)
    assert loop.drafted[1] > 10
    draft.close()


def test_another_vocabulary_is_refused(engine: Engine, tmp_path: object) -> None:
    other = EchoEngine(order(echo_file(tmp_path)), lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="257 tokens"):
        DraftModel(other, engine.tokenizer)


def test_chances_follow_what_happened() -> None:
    text = list(range(100, 130)) * 2
    copies = Lookup(30)
    copies.follow(text[:35])
    guessed, before = copies.guess(text[:35], 4)
    assert guessed == text[35:39]
    copies.follow(text)
    assert copies.guess(text, 4)[1][0] > before[0]
    misleads = Lookup(0)
    misleads.follow([n for i in range(30) for n in (1, 2, 3, 100 + i)])
    misleads.follow([n for i in range(31) for n in (1, 2, 3, 100 + i)][:-1])
    assert misleads.guess([1, 2, 3] * 40 + [1, 2, 3], 1)[1][0] < 0.2


def test_what_does_not_repeat_is_not_guessed() -> None:
    lookup = Lookup(4)
    lookup.follow(list(range(200)))
    assert lookup.guess(list(range(200)), 8) == ([], [])
