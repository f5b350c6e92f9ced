"""Accuracy and joules against the size of the memory: invented facts go in, and the same few are asked for each time.

Everything goes through the running daemon, as any client's requests; the facts live in a namespace of their own, which
is forgotten at the end. Knows nothing of reports on models.
"""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
import numpy as np

from localai.bench.asking import APP, figures
from localai.bench.generate import CITIES, COLORS, KEEPERS, NAMES
from localai.bench.runner import Watcher
from localai.bench.scoring import right
from localai.bench.stats import Estimate, bootstrap, mcnemar, ratio, wilson
from localai.bench.tasks import Item
from localai.client import Client

SIZES = (0, 10, 100, 1_000, 10_000, 100_000)
QUESTIONS = 50
_BATCH = 500
_SORTS = ("old", "new", "big", "small", "round", "flat")
_WAYS = (
    "What is the number of the {sort} {color} {thing} of {name} in {city}? Answer with the number alone.",
    "{name} in {city} has a {sort} {color} {thing}. Which number does it have? Only the number, please.",
)
_ASKED = QUESTIONS // len(_WAYS)
_ANSWER_TOKENS = 32


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One size of the store. `found` is how often the right memory was among those that the model was shown.

    Against the smallest store: `gained` are right only here, `lost` only there, `p` is of McNemar's exact test.
    `joules` are marginal, per question, None where unknown; `prompt_tokens`, `ttft_ms` and `seconds` are means.
    """

    memories: int
    questions: int
    accuracy: Estimate
    found: Estimate
    gained: int = 0
    lost: int = 0
    p: float = 1.0
    joules: Estimate | None
    quality: str
    prompt_tokens: float
    ttft_ms: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Fact:
    """One invented fact: its memory's id, what it is about, and the number."""

    id: str
    about: dict[str, str]
    number: int

    @property
    def text(self) -> str:
        named = "The number of the {sort} {color} {thing} of {name} in {city}".format(**self.about)
        return f"{named} is {self.number}."


def facts(count: int, seed: int, prefix: str) -> list[Fact]:
    """`count` different facts, always the same for a seed; a longer list begins like a shorter one."""
    keys = list(product(_SORTS, COLORS, KEEPERS, NAMES, CITIES))
    rng = random.Random(f"memory {seed}")
    rng.shuffle(keys)
    names = ("sort", "color", "thing", "name", "city")
    return [
        Fact(f"{prefix}{n}", dict(zip(names, key, strict=True)), rng.randint(1000, 9999))
        for n, key in enumerate(keys[:count])
    ]


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One run on `model` ('' the default) and `backend` ('' as routed), with stores of these `sizes`, ascending."""

    client: Client
    model: str
    backend: str
    sizes: Sequence[int]
    seed: int
    watcher: Watcher

    def run(self) -> list[Size]:
        """Raises LocalaiError; what was remembered for it is forgotten in any case."""
        namespace = f"bench-{secrets.token_hex(4)}"
        spaces: dict[str, int] = {}
        found: list[Size] = []
        first: list[bool] = []
        try:
            for size in self.sizes:
                verdicts, told = self._asked(self._spread(size, namespace, spaces), size)
                first = first or verdicts
                found.append(_compared(told, first, verdicts))
                self.watcher.stage(f"of {size} memories: {sum(verdicts)} of {len(verdicts)} right")
        finally:
            for space in spaces:
                self.watcher.stage("forgetting them")
                self.client.post("/localai/memory/forget", {"namespace": space}, timeout=None)
        return found

    def _spread(self, size: int, namespace: str, spaces: dict[str, int]) -> list[tuple[Fact, str]]:
        """Every fact that is asked for with its store: several stores where one holds too few, else one that grows."""
        few = 0 < size < _ASKED
        asked: list[tuple[Fact, str]] = []
        for start in range(0, _ASKED, size if few else _ASKED):
            space = f"{namespace}-{size}-{start}" if few else namespace
            known = facts(_ASKED + size, self.seed, f"{space}-")
            held = spaces.get(space, start)
            new = known[held : start + size]
            if new:
                self.watcher.stage(f"remembering {len(new)} more facts")
                spaces[space] = start + size
                self._remember(new, space)
            asked += [(fact, space) for fact in known[start : min(_ASKED, start + (size if few else _ASKED))]]
        return asked

    def _remember(self, new: Sequence[Fact], namespace: str) -> None:
        now = time.time()
        common = {"author_kind": "person", "author": "bench", "namespace": namespace, "kind": "verbatim"}
        common |= {"taint": "own", "state": "kept"}
        for begin in range(0, len(new), _BATCH):
            part = new[begin : begin + _BATCH]
            records = [{**common, "id": fact.id, "text": fact.text, "time": now, "recorded": now} for fact in part]
            self.client.post("/localai/memory/import", {"records": records}, timeout=None)

    def _asked(self, asked: Sequence[tuple[Fact, str]], size: int) -> tuple[list[bool], Size]:
        self.watcher.stage(f"asking of {size} memories")
        # What the first answer of a size takes for loading and reading indexes is nobody's question.
        self._answer("Hello", asked[0][1])
        answers = []
        for (fact, space), way in product(asked, _WAYS):
            begun = time.monotonic()
            answer = self._answer(way.format(**fact.about), space)
            answers.append((fact, answer, time.monotonic() - begun))
            self.watcher.advance(1)
        return [_is_right(fact, answer) for fact, answer, _ in answers], _size(size, answers)

    def _answer(self, question: str, namespace: str) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "memory": namespace}
        body |= {"max_tokens": _ANSWER_TOKENS, "temperature": 0, "seed": 0}
        body |= {"model": self.model} if self.model else {}
        body |= {"backend": self.backend} if self.backend else {}
        return self.client.post("/v1/chat/completions", body, timeout=None)


def client(socket: Any) -> Client:
    """Of a run: the ledger tells its questions from others by the application."""
    return Client(socket, app=APP)


def _size(size: int, answers: Sequence[tuple[Fact, dict[str, Any], float]]) -> Size:
    told = [figures(answer) for _, answer, _ in answers]
    known = [(each["joules"], 1.0) for each in told if each["joules"] is not None]
    hits = [fact.id in {memory["id"] for memory in answer["memories"]} for fact, answer, _ in answers]
    return Size(
        memories=size,
        questions=len(answers),
        accuracy=wilson(sum(_is_right(fact, answer) for fact, answer, _ in answers), len(answers)),
        found=wilson(sum(hits), len(hits)),
        joules=bootstrap(np.asarray(known, dtype=np.float64), ratio) if known else None,
        quality=max((each["quality"] for each in told), key=_WORST.index),
        prompt_tokens=statistics.fmean(each["prompt_tokens"] for each in told),
        ttft_ms=statistics.fmean(each["ttft_ms"] or 0.0 for each in told),
        seconds=statistics.fmean(seconds for _, _, seconds in answers),
    )


def _compared(size: Size, first: Sequence[bool], now: Sequence[bool]) -> Size:
    gained = sum(new and not old for old, new in zip(first, now, strict=True))
    lost = sum(old and not new for old, new in zip(first, now, strict=True))
    return msgspec.structs.replace(size, gained=gained, lost=lost, p=mcnemar(gained, lost))


_WORST = ("measured", "measured_partial", "modelled", "none")


def _is_right(fact: Fact, answer: dict[str, Any]) -> bool:
    item = Item(id=fact.id, category="memory", kind="chat", scorer="number", prompt="", answers=(str(fact.number),))
    return right(item, answer["choices"][0]["message"]["content"] or "")


def table(sizes: Sequence[dict[str, Any]]) -> str:
    """For people: one line per size."""
    return "\n".join(_lines(sizes))


def _lines(sizes: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'memories':>8}  {'right':>22}  {'more, less, p':>17}  {'shown the fact':>14}  {'J a question':>20}"
        f"  {'prompt':>6}  {'TTFT ms':>7}"
    )
    for each in sizes:
        low, value, high = (each["accuracy"][name] for name in ("low", "value", "high"))
        joules = each["joules"]
        spent = f"{joules['value']:.3g} ({each['quality']})" if joules else "unknown"
        changed = f"{each['gained']:+}, {-each['lost']}, {each['p']:.2g}"
        yield (
            f"{each['memories']:>8}  {f'{value:.0%} [{low:.0%}, {high:.0%}]':>22}  {changed:>17}"
            f"  {each['found']['value']:>14.0%}  {spent:>20}  {each['prompt_tokens']:>6.0f}  {each['ttft_ms']:>7.0f}"
        )
