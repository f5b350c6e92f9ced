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
from localai.bench.stats import Estimate, bootstrap, ratio, wilson
from localai.bench.tasks import Item
from localai.client import Client

SIZES = (0, 10, 100, 1_000, 10_000)
_ASKED = 10
_BATCH = 500
_WAYS = (
    "What is the number of the {color} {thing} of {name} in {city}? Answer with the number alone.",
    "{name} has a {color} {thing} in {city}. Which number does it have? Only the number, please.",
)
_ANSWER_TOKENS = 16


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One size of the store. `found` is how often the right memory was among those that the model was shown.

    `joules` are marginal, per question, None where unknown; `prompt_tokens`, `ttft_ms` and `seconds` are means.
    """

    memories: int
    questions: int
    accuracy: Estimate
    found: Estimate
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
        return "The number of the {color} {thing} of {name} in {city} is {number}.".format(
            **self.about, number=self.number
        )


def facts(count: int, seed: int, prefix: str) -> list[Fact]:
    """`count` different facts, always the same for a seed; a longer list begins like a shorter one."""
    keys = list(product(COLORS, KEEPERS, NAMES, CITIES))
    rng = random.Random(f"memory {seed}")
    rng.shuffle(keys)
    names = ("color", "thing", "name", "city")
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
        known = facts(max(_ASKED, *self.sizes), self.seed, f"{namespace}-")
        held = 0
        found = []
        try:
            for size in self.sizes:
                self.watcher.stage(f"remembering {size - held} more facts")
                self._remember(known[held:size], namespace)
                held = size
                self.watcher.stage(f"asking of {size} memories")
                found.append(self._asked(known[:_ASKED], size, namespace))
        finally:
            if held:
                self.watcher.stage("forgetting them")
                self.client.post("/localai/memory/forget", {"namespace": namespace}, timeout=None)
        return found

    def _remember(self, new: Sequence[Fact], namespace: str) -> None:
        now = time.time()
        common = {"author_kind": "person", "author": "bench", "namespace": namespace, "kind": "verbatim"}
        common |= {"taint": "own", "state": "kept"}
        for begin in range(0, len(new), _BATCH):
            part = new[begin : begin + _BATCH]
            records = [{**common, "id": fact.id, "text": fact.text, "time": now, "recorded": now} for fact in part]
            self.client.post("/localai/memory/import", {"records": records}, timeout=None)

    def _asked(self, asked: Sequence[Fact], size: int, namespace: str) -> Size:
        # What the first answer of a size takes for loading and reading indexes is nobody's question.
        self._answer("Hello", namespace)
        answers = []
        for fact, way in product(asked, _WAYS):
            begun = time.monotonic()
            answer = self._answer(way.format(**fact.about), namespace)
            answers.append((fact, answer, time.monotonic() - begun))
            self.watcher.advance(1)
        return _size(size, answers)

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


_WORST = ("measured", "measured_partial", "modelled", "none")


def _is_right(fact: Fact, answer: dict[str, Any]) -> bool:
    item = Item(id=fact.id, category="memory", kind="chat", scorer="number", prompt="", answers=(str(fact.number),))
    return right(item, answer["choices"][0]["message"]["content"] or "")


def table(sizes: Sequence[dict[str, Any]]) -> str:
    """For people: one line per size."""
    return "\n".join(_lines(sizes))


def _lines(sizes: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{'memories':>8}  {'right':>22}  {'shown the fact':>14}  {'J a question':>20}  {'prompt':>6}  {'TTFT ms':>7}"
    for each in sizes:
        low, value, high = (each["accuracy"][name] for name in ("low", "value", "high"))
        joules = each["joules"]
        spent = f"{joules['value']:.3g} ({each['quality']})" if joules else "unknown"
        yield (
            f"{each['memories']:>8}  {f'{value:.0%} [{low:.0%}, {high:.0%}]':>22}  {each['found']['value']:>14.0%}"
            f"  {spent:>20}  {each['prompt_tokens']:>6.0f}  {each['ttft_ms']:>7.0f}"
        )
