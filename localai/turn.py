"""THE SPINE: one request from its arrival to its row in the ledger. Read this function and you know the system."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass

from backends.contract import Job
from localai.answer_cache import Answers
from localai.auto.chooser import Auto
from localai.choice import Choice
from localai.config import Config
from localai.context import render
from localai.decoding import Clock, decode
from localai.energy.spending import Metering, Shape, Spending
from localai.ledger import Entry, Ledger
from localai.library import Library
from localai.market import Market
from localai.memories import Memories
from localai.messages import Started, TurnEvent, TurnRequest
from localai.pool import Pool
from localai.recollection import recollect
from localai.router import route
from localai.slot import Lease
from localai.tools.toolbox import Toolbox
from localai.upstreams.relay import Upstreams


@dataclass(frozen=True, slots=True)
class Parts:
    """What a turn needs of the daemon."""

    config: Config
    library: Library
    pool: Pool
    ledger: Ledger
    market: Market
    metering: Metering
    memories: Memories
    answers: Answers
    upstreams: Upstreams
    auto: Auto
    toolbox: Toolbox


async def answer(request: TurnRequest, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    """Yield the events of one answer, a Summary last. Raises LocalaiError; closing the iterator cancels the work."""
    clock = Clock()
    with parts.ledger.entry(request) as entry:
        async with parts.upstreams.relay(request, clock, entry) as away:
            async for event in away.events:
                yield event
        if away.served:
            return
        parts.metering.day.check()
        config, saving = parts.metering.eased(parts.config)
        request = away.instead
        choice = await route(request, parts.library, config, parts.market, saving)
        entry.routed(choice.id, choice.backend, choice.reason, choice.key)
        page = await parts.answers.open(request, choice)
        for event in page.replay(clock, entry.saw):
            yield event
        if page.found:
            return
        async with parts.pool.lease(choice, request.keep_alive, request.app, 1 / request.together) as lease:
            async with aclosing(lease.load()) as stages:
                async for waiting in stages:
                    yield waiting
            clock.load_s = lease.load_s
            yield _started(request, choice, lease)
            request, recalled = await recollect(request, parts.memories, lease.engine)
            yield recalled
            prompt = await render(request, lease.engine, choice, repetition_stop=config.repetition_stop == "on")
            metered = _metered(parts.metering, request, choice, prompt.job, entry)
            async with lease.place(prompt.job) as clock.queue_s:
                with metered as spent:
                    events = decode(prompt, lease.engine, clock, spent, echo=request.echo, halt=request.halt)
                    async with aclosing(page.keep(events, recalled)) as answered:
                        async for event in answered:
                            entry.saw(event)
                            yield event


def _metered(
    metering: Metering, request: TurnRequest, choice: Choice, job: Job, entry: Entry
) -> AbstractContextManager[Spending]:
    return metering.job(job.id, choice.key, request.max_joules, entry.took, choice.rates, Shape.of(job))


def _started(request: TurnRequest, choice: Choice, lease: Lease) -> Started:
    n_ctx = lease.engine.info.n_ctx
    return Started(
        choice.id,
        choice.backend,
        lease.reason,
        n_ctx,
        request.id,
        fallback=request.fallback,
        picked=request.picked,
    )
