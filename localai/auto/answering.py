"""The answer to any request: of model `auto` one that was chosen and, where in doubt, checked; else the turn itself.

A checked answer is made of several requests, each an ordinary turn with the asked request as its parent; it comes when
it was checked, and what it took is the sum. An energy limit ends the checking early, and the answer says so.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from localai.auto.checking import SHORT, alike, sound
from localai.auto.chooser import Order
from localai.auto.picking import Bid, Plan
from localai.energy.figures import Energy, total
from localai.errors import LocalaiError
from localai.messages import (
    ChoiceDone,
    Delta,
    Picked,
    Started,
    Summary,
    TurnEvent,
    TurnRequest,
    Waiting,
    new_id,
)
from localai.router import means_auto
from localai.turn import Parts
from localai.turn import answer as turn

SAMPLE_TEMPERATURE = 0.7
"""Of samples, unless the request has a higher one: they must be able to differ."""


def answer(request: TurnRequest, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    """The events of one answer, as `turn.answer`; raises what that does."""
    config, _ = parts.metering.eased(parts.config)
    return _auto(request, parts) if means_auto(request.model, config) else turn(request, parts)


async def _auto(request: TurnRequest, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    config, _ = parts.metering.eased(parts.config)
    order = await asyncio.to_thread(parts.auto.order, request, config)
    plan = order.plan
    if plan is None or plan.then is None:
        events = turn(order.request, parts)
    else:
        events = _Check(order, plan, plan.then, parts).run()
    async with aclosing(events):
        async for event in events:
            yield event


@dataclass(slots=True)
class _Draft:
    """One request's answer, kept back."""

    request: TurnRequest
    events: list[TurnEvent] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    started: Started | None = None
    summary: Summary | None = None

    async def made(self, parts: Parts) -> AsyncGenerator[Waiting, None]:
        """Passes on what is waited for."""
        async with aclosing(turn(self.request, parts)) as events:
            async for event in events:
                if isinstance(event, Waiting):
                    yield event
                    continue
                if isinstance(event, Started):
                    self.started = event
                    continue
                if isinstance(event, Summary):
                    self.summary = event
                    continue
                if isinstance(event, Delta):
                    self.text += event.content
                elif isinstance(event, ChoiceDone):
                    self.finish = event.reason
                self.events.append(event)


def sample_seed(query: str, number: int) -> int:
    """Of sample `number`: with one seed for all queries, first tokens would all come from one place of the odds."""
    return zlib.crc32(f"{number} {query}".encode("utf-8", "surrogatepass")) >> 1


class _Check:
    """One checked answer while it is made; `run` once."""

    def __init__(self, order: Order, plan: Plan, then: Bid, parts: Parts) -> None:
        assert order.request.picked is not None
        self._asked = order.request
        self._picked: Picked = order.request.picked
        self._category = order.category
        self._plan = plan
        self._then = then
        self._parts = parts
        self._begun = time.monotonic()
        self._energies: list[Energy | None] = []
        self._stopped = ""
        self._verdict = ""
        self._passed = True

    async def run(self) -> AsyncGenerator[TurnEvent, None]:
        """The events of the whole; raises what the first request raises, or where there is no answer, the last."""
        draft = _Draft(self._part(self._picked))
        async with aclosing(self._drafted(draft)) as stages:
            async for waiting in stages:
                yield waiting
        if not self._passed and self._affords(self._then.joules):
            told = False
            try:
                async with aclosing(self._other()) as events:
                    async for event in events:
                        told = told or not isinstance(event, Waiting)
                        yield event
                return
            except LocalaiError as error:
                if told or not draft.text.strip():
                    raise
                self._verdict += f"; {self._then.ability.model} could not answer: {error.message}"
                self._gave_up(error)
        for event in self._given(draft):
            yield event

    async def _drafted(self, draft: _Draft) -> AsyncGenerator[Waiting, None]:
        """Fill the draft and judge it."""
        async for waiting in draft.made(self._parts):
            yield waiting
        self._took(draft)
        if self._halted():
            return
        fault = sound(draft.text, draft.finish, self._asked.max_tokens)
        self._passed = fault is None
        if fault is not None or not self._plan.samples:
            self._verdict = f"the first answer {fault}" if fault else "its form holds"
            return
        async for waiting in self._sampled(draft):
            yield waiting

    async def _sampled(self, draft: _Draft) -> AsyncGenerator[Waiting, None]:
        """Ask again until a sample agrees, or none of them does, or the joules are spent."""
        most, tokens = self._parts.config.auto_samples, min(self._asked.max_tokens or SHORT, SHORT)
        for number in range(1, most + 1):
            if not self._affords(self._plan.first.ability.decode * tokens):
                return
            other = _Draft(self._sample(draft.request, number, tokens))
            yield Waiting(f"checking the answer by sample {number} of {most}")
            try:
                async for waiting in other.made(self._parts):
                    yield waiting
            except LocalaiError as error:
                self._verdict = f"not checked: {error.message}"
                self._gave_up(error)
                return
            self._took(other)
            if self._halted():
                return
            if alike(draft.text, other.text, self._category):
                self._verdict = f"agrees with sample {number}"
                return
        self._verdict, self._passed = f"{most} samples say otherwise", False

    async def _other(self) -> AsyncGenerator[TurnEvent, None]:
        """The answer of the other model, as it comes."""
        ability = self._then.ability
        self._verdict += f"; {ability} answers instead"
        request = replace(
            self._part(replace(self._picked, times=0.0, accuracy_lost=None)),
            model=ability.model,
            backend=ability.backend,
        )
        yield Waiting(f"asking {ability.model}")
        async with aclosing(turn(request, self._parts)) as events:
            async for event in events:
                if isinstance(event, Started):
                    yield self._named(event, len(self._energies) + 1)
                elif isinstance(event, Summary):
                    self._energies.append(event.energy)
                    yield self._summed(event)
                else:
                    yield event

    def _given(self, draft: _Draft) -> list[TurnEvent]:
        assert draft.started is not None
        assert draft.summary is not None
        return [self._named(draft.started, len(self._energies)), *draft.events, self._summed(draft.summary)]

    def _took(self, draft: _Draft) -> None:
        self._energies.append(draft.summary.energy if draft.summary else None)

    def _named(self, started: Started, requests: int) -> Started:
        picked = replace(self._picked, check=self._verdict, requests=requests)
        reason = f"{started.reason}; {self._verdict}"
        return replace(started, request=self._asked.id, reason=reason, picked=picked)

    def _summed(self, summary: Summary) -> Summary:
        whole = total(self._energies)
        energy = replace(whole, stopped=self._stopped or whole.stopped) if whole is not None else summary.energy
        # Nothing was said before the check: its time is time that was waited for the first word.
        before = round(1000 * (time.monotonic() - self._begun), 3) - summary.timings.total_ms
        first = summary.timings.ttft_ms
        timings = replace(
            summary.timings,
            total_ms=summary.timings.total_ms + before,
            ttft_ms=None if first is None else first + before,
        )
        return replace(summary, energy=energy, timings=timings)

    def _affords(self, joules: float) -> bool:
        """Whether the limit leaves so many more joules; the verdict tells where it does not."""
        limit = self._asked.max_joules
        if limit is None:
            return True
        spent = self._spent()
        if spent is not None and spent + joules <= limit:
            return True
        known = "an unknown number of joules" if spent is None else f"{spent:.3g} J"
        self._stopped = f"max_joules {limit:g}: {known} were spent before the check was done"
        self._verdict = f"{self._verdict}; {self._stopped}" if self._verdict else f"not checked, {self._stopped}"
        return False

    def _halted(self) -> bool:
        """Whether the person wants no more; then the first answer stands as it is."""
        halted = self._asked.halt is not None and self._asked.halt.asked
        self._verdict = "not checked: it was stopped" if halted else self._verdict
        return halted

    def _gave_up(self, error: LocalaiError) -> None:
        """What is left of a limit may be too little for one token, which is refused."""
        if self._asked.max_joules is not None:
            self._stopped = error.message

    def _spent(self) -> float | None:
        known = [energy.joules for energy in self._energies if energy is not None and energy.joules is not None]
        return sum(known) if len(known) == len(self._energies) else None

    def _part(self, picked: Picked) -> TurnRequest:
        """The asked request as a part of itself, with what is left of joules and time."""
        asked, passed = self._asked, time.monotonic() - self._begun
        limit, deadline = asked.max_joules, asked.deadline
        return replace(
            asked,
            id=new_id(),
            parent=asked.id,
            picked=picked,
            max_joules=None if limit is None else limit - (self._spent() or 0.0),
            deadline=None if deadline is None else max(0.001, deadline - passed),
        )

    def _sample(self, first: TurnRequest, number: int, tokens: int) -> TurnRequest:
        warm = max(SAMPLE_TEMPERATURE, float(first.sampling.get("temperature") or 0.0))
        seed = int(first.sampling.get("seed") or 0) + sample_seed(repr((first.messages, first.prompt)), number)
        sampling = {**first.sampling, "temperature": warm, "seed": seed}
        part = self._part(replace(self._picked, times=0.0, accuracy_lost=None))
        return replace(part, sampling=sampling, max_tokens=tokens)
