"""Answers by the meaning of the question: off unless it is switched on, and never silent about having answered.

A request and what was chosen for it enter; a Page leaves, which replays an answer or keeps the one that is made. All
but the last message must be equal; of that, numbers, names, negations and every telling word, and likeness of vectors.
Source: per-category thresholds, times to live and quotas as in "Category-Aware Semantic Caching" (arXiv 2510.26835).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from localai.choice import Choice
from localai.config import Config
from localai.decoding import Clock
from localai.energy.figures import Energy
from localai.memories import Memories
from localai.messages import (
    ChoiceDone,
    Delta,
    FromCache,
    Recalled,
    Started,
    Summary,
    Timings,
    TurnEvent,
    TurnRequest,
    UsedMemory,
)
from localai.same_question import Category, canonical, category

if TYPE_CHECKING:
    from localai.answer_file import AnswerFile, Kept
    from memory_store.embed import StaticEmbedder

DAY = 86_400.0
MOST_QUESTION = 2000
"""Characters of a question beyond which it is a text to work on, and not looked up."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one category: least cosine of two questions, seconds that an answer lives, share of all room."""

    likeness: float
    lives: float
    share: float


RULES: dict[Category, Rule] = {
    "fact": Rule(0.60, DAY, 0.5),
    "howto": Rule(0.60, 7 * DAY, 0.2),
    "text": Rule(0.85, DAY, 0.15),
    "code": Rule(0.90, 7 * DAY, 0.15),
}
"""Tuned on `tests/question_pairs.py`; "never" has no rule."""


class Answers:
    """One file in one home, read into memory at the first question. Methods of it block; a Page's do not."""

    def __init__(self, config: Config, memories: Memories) -> None:
        self._config = config
        self._memories = memories
        self._path = config.home / "answers.db"
        self._lock = Lock()
        self._file: AnswerFile | None = None
        self._embedder: StaticEmbedder | None = None
        self.epoch = 0

    @property
    def path(self) -> Path:
        return self._path

    async def open(self, request: TurnRequest, choice: Choice) -> Page:
        """The page for this request; a blank one, which keeps nothing, where it must not be cached."""
        # Most requests are of that kind, and a thread for each costs more than it takes to see that.
        kind = category(request.messages[-1].content) if self._may(request, choice) else "never"
        return Page(request, choice) if kind == "never" else await asyncio.to_thread(self._open, request, choice, kind)

    def _open(self, request: TurnRequest, choice: Choice, kind: Category) -> Page:
        from localai.answer_file import Kept

        text = request.messages[-1].content
        context = _context(request, choice, self._memories.stamp() if request.memory is not None else (0, 0))
        with self._lock:
            epoch, file, rule = self.epoch, self._opened(), RULES[kind]
            assert self._embedder is not None
            vector = self._embedder.embed([text])[0]
            form = sha256(canonical(text).encode("utf-8", "surrogatepass")).digest()
            found = file.nearest(context, vector, rule.likeness, form, time.time() - rule.lives)
        draft = Kept(context=context, category=kind, form=form, vector=vector, epoch=epoch)
        return Page(request, choice, self, draft, found)

    def keep(self, kept: Kept) -> None:
        """Write an answer down, unless everything was cleared since its question came."""
        with self._lock:
            if kept.epoch == self.epoch:
                limit = int(self._config.answer_cache_entries * RULES[kept.category].share)
                self._opened().put(kept, max(1, limit))

    def clear(self) -> int:
        """Forget every answer, leaving none of its bytes in the file; how many there were.

        All of them, because an answer may say in other words what is to be forgotten.
        """
        with self._lock:
            self.epoch += 1
            if self._file is None and not self._path.exists():
                return 0
            return self._opened().clear()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _may(self, request: TurnRequest, choice: Choice) -> bool:
        if self._config.answer_cache == "off" or request.kind != "chat" or not request.messages:
            return False
        sampling = {**choice.sampling, **request.sampling}
        asked = request.messages[-1]
        plain = not (request.tools or request.grammar or request.ignore_eos or request.echo or request.n != 1)
        silent = request.logprobs is None and request.prompt_logprobs is None
        # A sample that checks an answer of model `auto` must be a new one.
        silent = silent and not (request.parent and request.picked)
        spoken = all(message.role != "tool" and not message.tool_calls for message in request.messages)
        greedy = sampling.get("temperature", 1.0) == 0 or self._config.answer_cache == "always"
        return plain and silent and spoken and greedy and asked.role == "user" and len(asked.content) <= MOST_QUESTION

    def _opened(self) -> AnswerFile:
        if self._file is None:
            from localai.answer_file import AnswerFile
            from memory_store.embed import StaticEmbedder

            self._embedder = StaticEmbedder()
            self._file = AnswerFile(self._path, self._embedder.digest)
        return self._file


class Page:
    """One request's place in the cache. `found` is the answer that it already has."""

    def __init__(
        self,
        request: TurnRequest,
        choice: Choice,
        answers: Answers | None = None,
        draft: Kept | None = None,
        found: tuple[Kept, float] | None = None,
    ) -> None:
        self._request = request
        self._choice = choice
        self._answers = answers
        self._draft = draft
        self.found = found

    def replay(self, clock: Clock, note: Callable[[TurnEvent], None]) -> Iterator[TurnEvent]:
        """The events of the answer that was found, which say where it comes from; none where there is none.

        `note` sees each of them before it goes out.
        """
        for event in self._events(clock, *self.found) if self.found else ():
            note(event)
            yield event

    def _events(self, clock: Clock, kept: Kept, likeness: float) -> Iterator[TurnEvent]:
        choice, age = self._choice, max(0.0, time.time() - kept.made)
        cached = FromCache(round(likeness, 4), round(age, 1), kept.category)
        reason = f"answered from the cache: a question that asks the same was answered {age:.0f} s ago"
        yield Started(
            choice.id, choice.backend, reason, choice.n_ctx, self._request.id, cached, picked=self._request.picked
        )
        yield Recalled(tuple(UsedMemory(*used) for used in kept.memories))
        yield Delta(0, kept.text, kept.reasoning)
        yield ChoiceDone(0, "stop")
        took = round(1000 * (time.monotonic() - clock.started), 3)
        yield Summary(
            prompt_tokens=kept.prompt_tokens,
            cached_tokens=kept.prompt_tokens,
            completion_tokens=kept.completion_tokens,
            timings=_instant(took),
            energy=Energy(reason="answered from the cache: no engine ran"),
        )

    async def keep(
        self, events: AsyncGenerator[TurnEvent, None], recalled: Recalled
    ) -> AsyncGenerator[TurnEvent, None]:
        """Pass the events on, and keep the answer if it came to its own end, and the memory did all that it can."""
        text, reasoning, whole = "", "", False
        async with aclosing(events):
            async for event in events:
                if self._draft is not None and isinstance(event, Delta):
                    text, reasoning = text + event.content, reasoning + event.reasoning
                elif isinstance(event, ChoiceDone):
                    whole = event.reason == "stop" and not recalled.fallback
                elif isinstance(event, Summary) and whole and self._draft is not None and self._answers is not None:
                    kept = replace(
                        self._draft,
                        text=text,
                        reasoning=reasoning,
                        memories=tuple((memory.id, memory.source, memory.trust) for memory in recalled.memories),
                        prompt_tokens=event.prompt_tokens,
                        completion_tokens=event.completion_tokens,
                        made=time.time(),
                    )
                    await asyncio.to_thread(self._answers.keep, kept)
                yield event


def _context(request: TurnRequest, choice: Choice, stamp: tuple[int, int]) -> bytes:
    """All that must be equal: the model and how it samples, what was said before, and the state of the memory."""
    model = choice.model
    weights = (str(model.path), model.digest, model.size_bytes, choice.backend, choice.mode, repr(choice.adapters))
    sampling = {**choice.sampling, **request.sampling}
    sampling.pop("seed", None)
    asked = (sorted(sampling.items()), request.max_tokens, request.stop, request.think, request.max_joules)
    said = [(message.role, message.content, message.reasoning) for message in request.messages[:-1]]
    whole = (weights, choice.id, choice.system, asked, said, request.memory, stamp, request.trusted)
    return sha256(repr(whole).encode("utf-8", "surrogatepass")).digest()


def _instant(total_ms: float) -> Timings:
    return Timings(
        queue_ms=0.0,
        load_ms=0.0,
        restore_ms=0.0,
        ttft_ms=total_ms,
        prefill_ms=0.0,
        decode_ms=0.0,
        prefill_tps=None,
        decode_tps=None,
        total_ms=total_ms,
    )
