"""Made-up days of use, for judging what a KV cache should keep: seeds enter, visits in order of time leave.

Content is numbers that stand for GRANULE tokens each: equal numbers are equal text. Knows nothing of any cache.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

GRANULE = 16
"""Tokens that one number stands for."""


@dataclass(frozen=True, slots=True, order=True)
class Visit:
    """One request: at `at` seconds `prompt` is asked, and `answer` is what the engine adds to it."""

    at: float
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class _Text:
    """Fresh content; no two calls of one instance give the same."""

    def __init__(self, draw: random.Random, start: int) -> None:
        self._draw = draw
        self._numbers = itertools.count(start)

    def new(self, tokens: float) -> tuple[int, ...]:
        """About `tokens` tokens of text that was never seen."""
        return tuple(itertools.islice(self._numbers, max(1, round(tokens / GRANULE))))

    def spread(self, typical: float, width: float = 0.6) -> tuple[int, ...]:
        """Fresh text whose length scatters around `typical` tokens."""
        return self.new(typical * self._draw.lognormvariate(0.0, width))


def chat(seed: int = 1, visits: int = 1500, base: int = 0) -> Iterator[Visit]:
    """A person with a few assistants: some turns in a row, then another chat, mostly a recent one, now and then old.

    Chats of one assistant share its system prompt; one turn in ten is asked again with other words.
    """
    draw = random.Random(seed)
    text = _Text(draw, base)
    assistants = [text.new(draw.choice((180, 600, 1400))) for _ in range(4)]
    chats: list[list[int]] = []
    at, current = 0.0, -1
    for _ in range(visits):
        if current < 0 or draw.random() < 0.22:
            at += draw.expovariate(1 / 900)
            if not chats or draw.random() < 0.3:
                chats.append(list(draw.choice(assistants)))
                current = len(chats) - 1
            else:
                back = min(len(chats) - 1, int(draw.paretovariate(0.9)) - 1)
                current = len(chats) - 1 - back
        at += 5 + draw.expovariate(1 / 45)
        history = chats[current]
        prompt = (*history, *text.spread(70, 1.0))
        answer = text.spread(260)
        yield Visit(at, prompt, answer)
        if draw.random() < 0.9 and len(prompt) + len(answer) < 10_000 // GRANULE:
            history[:] = [*prompt, *answer]


def agent(seed: int = 2, visits: int = 1500, base: int = 1 << 40) -> Iterator[Visit]:
    """Tools that work through tasks: every step resends all and adds a result; a finished task is never seen again.

    Long tasks are compacted: what is kept is the instructions and a new summary.
    """
    draw = random.Random(seed)
    text = _Text(draw, base)
    tools = [text.new(draw.uniform(2500, 6000)) for _ in range(3)]
    at, made = 0.0, 0
    while made < visits:
        instructions = draw.choice(tools)
        history = (*instructions, *text.spread(250))
        for _ in range(draw.randint(6, 36)):
            at += draw.uniform(2, 15)
            answer = text.spread(90)
            yield Visit(at, history, answer)
            made += 1
            history = (*history, *answer, *text.spread(450, 1.1))
            if len(history) > 16_000 // GRANULE:
                history = (*instructions, *text.spread(900))
        at += draw.expovariate(1 / 400)


def editor(seed: int = 3, visits: int = 2500, base: int = 2 << 40) -> Iterator[Visit]:
    """Completions while typing: the file up to the cursor, which moves; edits change the text from there on."""
    draw = random.Random(seed)
    text = _Text(draw, base)
    files = [list(text.spread(3500, 0.7)) for _ in range(24)]
    at, made = 0.0, 0
    while made < visits:
        file = files[min(len(files) - 1, int(draw.paretovariate(0.8)) - 1)]
        cursor = draw.randint(len(file) // 4, len(file))
        for _ in range(draw.randint(3, 60)):
            at += draw.uniform(0.4, 4)
            yield Visit(at, tuple(file[:cursor]), text.new(24))
            made += 1
            if draw.random() < 0.5:
                file[cursor - 1] = text.new(GRANULE)[0]
            if draw.random() < 0.35:
                file.insert(cursor, text.new(GRANULE)[0])
                cursor += 1
        at += draw.expovariate(1 / 120)
        if draw.random() < 0.2:
            draw.shuffle(files)


def scan(seed: int = 4, documents: int = 500, base: int = 3 << 40, start: float = 4000.0) -> Iterator[Visit]:
    """A batch over many documents, each read once, all behind the same short instruction."""
    draw = random.Random(seed)
    text = _Text(draw, base)
    instruction = text.new(220)
    at = start
    for _ in range(documents):
        at += draw.uniform(8, 30)
        yield Visit(at, (*instruction, *text.spread(3600, 0.5)), text.spread(180))


def _sessions(visits: Iterator[Visit], size: int, gap_s: float, first_s: float) -> Iterator[Visit]:
    """The same visits with a pause after every `size` of them, beginning at `first_s`."""
    for number, visit in enumerate(visits):
        yield replace(visit, at=visit.at + first_s + number // size * gap_s)


def mixed(seed: int = 5) -> Iterator[Visit]:
    """All of the above on one machine, each in its own hours of the same two days, the scan across them."""
    parts = [
        chat(seed, 900),
        _sessions(agent(seed + 1, 500), 60, 5 * 3600.0, 1800.0),
        _sessions(editor(seed + 2, 700), 90, 6 * 3600.0, 5400.0),
        _sessions(scan(seed + 3, 800, start=0.0), 50, 3 * 3600.0, 3000.0),
    ]
    return heapq.merge(*parts)


TRACES: dict[str, Callable[[], Iterator[Visit]]] = {"chat": chat, "agent": agent, "editor": editor, "mixed": mixed}
