"""Guessed tokens: the text stays what it is without them, whatever draws it, and they cost nothing where they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Event, Finish, Grammar, Job, Sampling, StepRecord, Token
from backends.draft import DraftModel
from backends.echo import EchoEngine
from backends.engine import Engine
from backends.errors import InvalidJob, UnsupportedModel
from backends.exactness import Exactness, Question
from backends.lookup import Lookup
from backends.registry import open_engine
from backends.sequences import prepare
from backends.threads import ThreadGovernor
from tests.engine_runs import STARTER, echo_file, order
from tests.tiny_models import tiny_gguf

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
    "stop": {"stop": ("e", "a", "o")},
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
        info = engine.info()
        able = info.capabilities | ({"draft"} if draft else set())
        self.info = msgspec.structs.replace(info, capabilities=able)

    def run(self, text: str, **fields: Any) -> list[Event]:
        """Answer from empty cells; return all events but times."""
        return self.run_all([text], **fields)

    def run_all(
        self, texts: list[str], threads: int = 1, governor: ThreadGovernor | None = None, **fields: Any
    ) -> list[Event]:
        """Answer several at once."""
        self.events, self.records = [], []
        for seq in range(self.engine.info().n_seq):
            self.engine.drop(seq)
        if governor is None:
            governor = Fixed((threads,))
            for size in (1, 2, 4, 8, 16, 32):
                governor.learn(threads, size, 1.0 + 0.01 * size)
        batcher = Batcher(self.engine, governor, self._take, 0.15, draft=self.draft)
        for number, text in enumerate(texts, start=1):
            ids = self.engine.tokenizer.encode(text, special=True, add_bos=False)
            made = Job(**({"id": number, "tokens": ids, "sampling": _ANSWER, "max_tokens": 48} | fields))  # type: ignore
            batcher.add(prepare(made, self.info, self.engine.tokenizer, self.constraints))
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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights: quick, and no machine is too busy for it."""
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "qwen3")


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    made = open_engine(order(tiny, "llama.cpp", n_ctx=1024, n_seq=4), lambda *_: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights under the same vocabulary."""
    return tiny_gguf(tmp_path_factory.mktemp("other") / "other.gguf", "qwen2")


def plain(events: list[Event]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for e in events:
        if isinstance(e, Token):
            said.append((e.job, e.index, e.id, e.text, round(e.logprob.logprob or 0.0, 3) if e.logprob else None))
        elif isinstance(e, Finish):
            said.append((e.job, e.index, e.reason, e.text, e.stop))
    return sorted(said, key=lambda s: (s[0], s[1]))


@pytest.mark.parametrize("fields", _CASES.values(), ids=_CASES.keys())
def test_the_answer_is_the_same(engine: Engine, fields: dict[str, object]) -> None:
    loop = Loop(engine)
    without = loop.run(_POEM * 4, **fields, speculation="off")
    assert loop.drafted == (0, 0)
    assert plain(loop.run(_POEM * 4, **fields, speculation="lookup")) == plain(without)
    assert 0 <= loop.drafted[1] <= loop.drafted[0]
    assert loop.drafted[0] > 0


def test_copies_take_fewer_steps() -> None:
    engine = open_engine(order(STARTER, "llama.cpp", n_ctx=512, n_seq=1), lambda *_: None)
    loop = Loop(engine)
    without = loop.run(_POEM * 3, speculation="off", max_tokens=16)
    steps = len(loop.records)
    assert plain(loop.run(_POEM * 3, max_tokens=16)) == plain(without)
    assert loop.drafted[1] > 4
    assert len(loop.records) < steps
    engine.close()


_ENGINES = {
    "one thread": ("llama.cpp", {"threads": 1}, True),
    "q8_0": ("llama.cpp", {"threads": 1, "kv_type": "q8_0"}, True),
    "onnx": ("onnx", {"threads": 1}, None),
    "onnx with 8-bit caches": ("onnx", {"threads": 1, "mode": "kv8"}, None),
}
"""Whether steps of several tokens round as single ones; None where the processor decides that."""


@pytest.mark.parametrize(("backend", "settings", "exact"), _ENGINES.values(), ids=_ENGINES.keys())
def test_texts_stay_on_every_engine(
    tiny: Path, backend: str, settings: dict[str, Any], exact: bool | None, tmp_path: Path
) -> None:
    engine = open_engine(order(tiny, backend, n_ctx=1024, n_seq=4, cache=str(tmp_path), **settings), lambda *_: None)
    loop, text, threads = Loop(engine), _POEM * 10, settings["threads"]
    without = loop.run_all([text], threads, speculation="off", max_tokens=16)
    assert plain(loop.run_all([text], threads, max_tokens=16)) == plain(without)
    end = loop.events[-1]
    assert isinstance(end, Finish)
    guessed = loop.drafted[0] > 0
    assert guessed == (end.usage.guesses.by == ("lookup",))
    assert guessed or "round" in end.usage.guesses.unguessed
    assert exact in (None, guessed)
    loop.run_all([text], threads, speculation="lookup", max_tokens=16)
    assert loop.drafted[0] > 0
    engine.close()


class Otherwise:
    """An engine whose steps of several tokens round otherwise than single ones, by so little that texts seldom tell."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, batch: Any, interrupt: Any = None) -> Any:
        results = self._engine.step(batch, interrupt)
        return [row + np.float32(1e-4) if part.want == "all" else row for part, row in zip(batch, results, strict=True)]


def test_what_rounds_otherwise_is_not_guessed(engine: Engine) -> None:
    loop = Loop(cast(Engine, Otherwise(engine)))
    without = loop.run(_POEM * 4, speculation="off", max_tokens=16)
    assert plain(loop.run(_POEM * 4, max_tokens=16)) == plain(without)
    end = loop.events[-1]
    assert isinstance(end, Finish)
    assert loop.drafted == (0, 0)
    assert "round" in end.usage.guesses.unguessed
    loop.run(_POEM * 4, speculation="lookup", max_tokens=16)
    assert loop.drafted[0] > 0


@pytest.mark.parametrize("fields", [{}, {"n": 2}], ids=["one choice", "two choices"])
def test_one_of_several_repeats(engine: Engine, fields: dict[str, Any]) -> None:
    loop, texts = Loop(engine), [_POEM * 3, "The capital of France is"]
    without = loop.run_all(texts, **fields, speculation="off", max_tokens=24)
    assert plain(loop.run_all(texts, **fields, max_tokens=24)) == plain(without)


def test_samples_keep_their_distribution(tiny: Path) -> None:
    """Chi-square of the tokens at three places, over independent draws with and without guesses."""
    engine = open_engine(order(tiny, "llama.cpp", n_ctx=256, n_seq=1), lambda *_: None)
    loop, draws, counts = Loop(engine), 60, {}
    drafted = 0
    for speculation in ("off", "lookup"):
        seen: list[Counter[int]] = [Counter(), Counter(), Counter()]
        for _ in range(draws):
            sampling = Sampling(temperature=1.5, top_k=5)
            loop.run("red blue red red blue " * 3, sampling=sampling, max_tokens=4, speculation=speculation)
            ids = [e.id for e in loop.events if isinstance(e, Token)]
            for place, token in zip(seen, ids[1:], strict=False):
                place[token] += 1
            drafted += loop.drafted[0]
        counts[speculation] = seen
    engine.close()
    assert drafted > draws / 4
    for off, on in zip(counts["off"], counts["lookup"], strict=True):
        common = [t for t in off | on if off[t] + on[t] >= 10]
        pairs = np.array(
            [(off[t], on[t]) for t in common] + [[sum(c.values()) - sum(c[t] for t in common) for c in (off, on)]]
        )
        expected = pairs.sum(1, keepdims=True) * pairs.sum(0) / pairs.sum()
        statistic = ((pairs - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
        freedom = max(1, len(pairs) - 1)
        # Wilson and Hilferty: the cube root is nearly normal; 4 deviations are one in 30,000.
        limit = freedom * (1 - 2 / (9 * freedom) + 4 * (2 / (9 * freedom)) ** 0.5) ** 3
        assert statistic < limit


def test_cells_hold_the_answer_and_nothing_else(engine: Engine) -> None:
    loop = Loop(engine)
    loop.run(_POEM * 4, max_tokens=20)
    assert loop.records[-1].shares[0].context == sum(s.prefilled + s.decoded for r in loop.records for s in r.shares)
    assert sum(s.decoded for r in loop.records for s in r.shares) == 19


def test_a_draft_model_guesses_what_it_would_say(engine: Engine, tiny: Path) -> None:
    small = open_engine(order(tiny, "llama.cpp", n_ctx=1024, n_seq=4), lambda *_: None)
    draft = DraftModel(small, engine.tokenizer)
    text = "The capital of France is"
    without = Loop(engine).run(text, max_tokens=24)
    loop = Loop(engine, draft)
    assert plain(loop.run(text, max_tokens=24, speculation="draft")) == plain(without)
    assert loop.drafted[1] > 10
    draft.close()


@pytest.mark.parametrize("text", ["The capital of France is", _POEM * 4], ids=["new", "repeated"])
def test_a_draft_model_that_is_wrong_changes_nothing(engine: Engine, other: Path, text: str) -> None:
    small = open_engine(order(other, "llama.cpp", n_ctx=1024, n_seq=4), lambda *_: None)
    draft = DraftModel(small, engine.tokenizer)
    without = Loop(engine).run(text, max_tokens=32)
    loop = Loop(engine, draft)
    assert plain(loop.run(text, max_tokens=32, speculation="draft")) == plain(without)
    assert loop.drafted[0] > loop.drafted[1]
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


def test_no_draft_model_is_an_error(engine: Engine) -> None:
    with pytest.raises(InvalidJob, match="no draft model"):
        Loop(engine).run("One", speculation="draft")


_VERDICTS = {
    "same place": (Question(2, 4, 300, 0), True),
    "other size": (Question(2, 8, 300, 0), None),
    "further": (Question(2, 4, 600, 0), None),
    "others came": (Question(2, 4, 300, 50), None),
    "other threads": (Question(1, 4, 300, 0), None),
}


@pytest.mark.parametrize(("asked", "verdict"), _VERDICTS.values(), ids=_VERDICTS.keys())
def test_what_was_compared_holds_where_it_was(asked: Question, verdict: bool | None) -> None:
    exactness = Exactness()
    exactness.note(Question(2, 4, 290, 0), alike=True)
    exactness.note(Question(2, 4, 900, 0), alike=True)
    assert exactness.verdict(asked) is verdict


def test_a_difference_holds_from_there_on() -> None:
    exactness = Exactness()
    exactness.note(Question(2, 4, 500, 0), alike=False)
    assert exactness.verdict(Question(2, 8, 700, 30)) is False
    assert exactness.verdict(Question(2, 4, 400, 0)) is None
    assert [exactness.verdict(Question(2, 4, 700, 0)) for _ in range(1100)][-1] is None


class Dear(Fixed):
    """A device on which each further token of a step costs as much as a step."""

    def __init__(self) -> None:
        super().__init__((1,))
        for size in (1, 2, 4, 8, 16, 32):
            self.learn(1, size, float(size))


def test_no_guess_is_made_where_it_would_not_pay(engine: Engine) -> None:
    loop = Loop(engine)
    loop.run_all([_POEM * 4], governor=Dear(), max_tokens=12)
    end = loop.events[-1]
    assert isinstance(end, Finish)
    assert loop.drafted == (0, 0)
    assert "pay" in end.usage.guesses.unguessed


@pytest.mark.parametrize("speculation", ["auto", "lookup"])
def test_no_guess_is_made_before_a_step_was_read(engine: Engine, speculation: str) -> None:
    """Another number of threads begins without readings, in the middle of an answer."""
    loop = Loop(engine)
    loop.run_all([_POEM * 4], governor=Fixed((1,)), max_tokens=12, speculation=speculation)
    end = loop.events[-1]
    assert isinstance(end, Finish)
    assert end.usage.completion_tokens == 12
    assert loop.drafted == (0, 0)
