"""The engine's events in, the answer's events out: deltas parsed from the model's own format, then the timings.

Knows nothing of HTTP or of how the prompt came about.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec

from backends.contract import Embedding, Finish, FinishReason, Progress, PromptLogprobs, Token, TokenLogprob, Usage
from backends.errors import BackendError
from backends.handle import EngineHandle
from backends.kv_paging import PagedUse
from localai.context import Prompt
from localai.energy.figures import Energy
from localai.energy.spending import Spending
from localai.errors import DeadlinePassed, from_backend
from localai.halting import Halt
from localai.messages import (
    ChoiceDone,
    Delta,
    Embedded,
    PromptScored,
    Summary,
    Timings,
    ToolCallDelta,
    TurnEvent,
    Waiting,
)
from localai.toolcalls import Content, OutputParser, Piece, Reasoning


@dataclass(slots=True)
class Clock:
    """When a request came in, how long its engine took to load and its turn to come; monotonic seconds."""

    started: float = field(default_factory=time.monotonic)
    load_s: float = 0.0
    queue_s: float = 0.0


class _Choice:
    """The reading end of one sequence."""

    def __init__(self, index: int, parser: OutputParser | None) -> None:
        self.index = index
        self._parser = parser
        self._held: list[TokenLogprob] = []

    @property
    def called(self) -> bool:
        """True where the answer holds a whole tool call."""
        return self._parser is not None and self._parser.calls > 0

    @property
    def broken(self) -> frozenset[int]:
        """Calls that were begun and then turned out to be text."""
        return self._parser.broken if self._parser else frozenset()

    @property
    def cut(self) -> bool:
        """True where the last of these was cut short."""
        return self._parser is not None and self._parser.cut

    @property
    def repeats(self) -> bool:
        """True where a forced call repeated an earlier one, so that nothing new will come."""
        return self._parser is not None and self._parser.repeats

    def push(self, text: str, scored: TokenLogprob | None) -> Delta | None:
        """The delta that `text` gives rise to; log-probabilities wait for the text that they belong to."""
        if scored is not None:
            self._held.append(scored)
        return self._delta(self._parser.feed(text) if self._parser else [Content(text)])

    def close(self, text: str, *, early: bool) -> Delta | None:
        """The last delta, with what was held back until the end; `early` where the model did not end by itself."""
        if self._parser is None:
            return self._delta([Content(text)])
        return self._delta([*self._parser.feed(text), *self._parser.close(early=early)])

    def _delta(self, pieces: Sequence[Piece]) -> Delta | None:
        calls = tuple(p for p in pieces if isinstance(p, ToolCallDelta))
        content = "".join(p.text for p in pieces if isinstance(p, Content))
        reasoning = "".join(p.text for p in pieces if isinstance(p, Reasoning))
        if not (content or reasoning or calls or self._held):
            return None
        held, self._held = tuple(self._held), []
        return Delta(self.index, content, reasoning, calls, held)


async def decode(
    prompt: Prompt, engine: EngineHandle, clock: Clock, spending: Spending, *, echo: bool, halt: Halt | None = None
) -> AsyncGenerator[TurnEvent, None]:
    """Run the job and yield deltas as they come, then one Summary. Raises LocalaiError where the engine fails.

    Where the energy limit is reached, the answer ends there, as at its longest; where `halt` asks, as cancelled.
    """
    job, halt = prompt.job, halt or Halt()
    if job.deadline is not None:
        job = msgspec.structs.replace(job, deadline=max(0.0, job.deadline - clock.queue_s))
    choices = [_Choice(i, prompt.parser() if prompt.parser else None) for i in range(job.n)]
    usages: list[Usage] = []
    notes: list[str] = []
    scored: list[TokenLogprob] = []
    echoed = not echo
    end = partial(engine.cancel, job.id)
    try:
        async with aclosing(engine.run(job)) as events, halt.reaches(end):
            async for event in events:
                if spending.over():
                    end()
                if not echoed and isinstance(event, Token | Finish):
                    echoed = True
                    for choice in choices:
                        yield Delta(choice.index, prompt.text, logprobs=_whole_prompt(prompt, scored))
                if isinstance(event, Token):
                    delta = choices[event.index].push(event.text, event.logprob)
                    if delta is not None:
                        yield delta
                    if job.n == 1 and choices[0].repeats:
                        end()
                elif isinstance(event, Finish):
                    _refuse_if_late(event)
                    usages.append(event.usage)
                    notes += [event.note] if event.note else []
                    spending.whole |= event.reason == "stop"
                    choice = choices[event.index]
                    delta = choice.close(event.text, early=event.reason != "stop")
                    if delta is not None:
                        yield delta
                    reason = _reason(event, choice, spending)
                    yield ChoiceDone(event.index, reason, event.stop, choice.broken, choice.cut)
                elif isinstance(event, Progress):
                    yield Waiting("prefill", event.done / event.total)
                elif isinstance(event, PromptLogprobs):
                    scored.extend(event.tokens)
                elif isinstance(event, Embedding):
                    usages.append(event.usage)
                    yield Embedded(tuple(array("f", event.vector)))
    except BackendError as error:
        raise from_backend(error) from error
    if job.prompt_logprobs is not None:
        yield PromptScored(_whole_prompt(prompt, scored), prompt.text)
    yield summarize(usages, clock, spending.energy(), next(iter(notes), ""))


def _reason(event: Finish, choice: _Choice, spending: Spending) -> FinishReason | Literal["tool_calls"]:
    if choice.called and (event.reason == "stop" or choice.repeats):
        return "tool_calls"
    return "length" if spending.stopped and event.reason == "cancelled" else event.reason


def _refuse_if_late(event: Finish) -> None:
    """A deadline that cuts an answer short leaves what there is; without a token, there is none."""
    if event.reason == "deadline" and event.usage.completion_tokens == 0:
        raise DeadlinePassed("the deadline passed before the first token", "allow more time, or shorten the prompt")


def _whole_prompt(prompt: Prompt, scored: Sequence[TokenLogprob]) -> tuple[TokenLogprob, ...]:
    """`scored` behind the first token, which nothing precedes: it has no log-probability, and the text left over."""
    if prompt.job.prompt_logprobs is None:
        return ()
    rest = b"".join(token.piece for token in scored)
    return TokenLogprob(prompt.job.tokens[0], prompt.text.encode().removesuffix(rest), None, []), *scored


def summarize(usages: list[Usage], clock: Clock, energy: Energy, stopped: str = "") -> Summary:
    """Fold the choices' usages: they share one prompt, so its tokens count once."""
    first = usages[0]
    now = time.monotonic()
    starts = [u.first_token_at for u in usages if u.first_token_at is not None]
    completion = sum(u.completion_tokens for u in usages)
    prefilled = first.prompt_tokens - first.cached_tokens
    guessers = sorted({guesser for u in usages for guesser in u.guesses.by}, reverse=True)
    decode_s = max(u.decode_s for u in usages)
    timings = Timings(
        queue_ms=_ms(clock.queue_s + first.queue_s),
        load_ms=_ms(clock.load_s),
        restore_ms=_ms(first.restore_s),
        ttft_ms=_ms(min(starts) - clock.started) if starts else None,
        prefill_ms=_ms(first.prefill_s),
        decode_ms=_ms(decode_s),
        prefill_tps=_rate(prefilled, first.prefill_s),
        # The first token comes out of prefill; decode makes the rest.
        decode_tps=_rate(completion - len(starts), decode_s),
        total_ms=_ms(now - clock.started),
        cached={str(tier): count for tier, count in first.cached_by_tier.items()},
        draft_n=sum(u.guesses.drafted for u in usages),
        draft_n_accepted=sum(u.guesses.accepted for u in usages),
        speculation="+".join(guessers) or "off",
        speculation_reason="" if guessers else first.guesses.unguessed,
        paging=paging_json(first.paged) if first.paged else None,
        stopped=stopped,
    )
    return Summary(
        prompt_tokens=first.prompt_tokens,
        cached_tokens=first.cached_tokens,
        completion_tokens=completion,
        timings=timings,
        energy=energy,
    )


def paging_json(use: PagedUse) -> dict[str, Any]:
    """What paging a long context took; `selected` is the share of the pages behind it that a new token attended to."""
    return {
        "pages_read": use.read_pages,
        "ssd_read_bytes": use.read_bytes,
        "ssd_written_bytes": use.written_bytes,
        "selected": round(use.attended / use.held, 4) if use.held else None,
        "ram_bytes": use.ram_bytes,
        "ssd_bytes": use.ssd_bytes,
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 2) if tokens > 0 and seconds > 0 else None
