"""THE SPINE: one request from its arrival to its row in the ledger. Read this function and you know the system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from localai.config import Config
from localai.context import render
from localai.decoding import Clock, decode
from localai.energy.spending import Metering
from localai.ledger import Ledger
from localai.library import Library
from localai.market import Market
from localai.memories import Memories
from localai.messages import Recalled, Started, TurnEvent, TurnRequest
from localai.pool import Pool
from localai.recollection import recollect
from localai.router import route


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


async def answer(request: TurnRequest, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    """Yield the events of one answer, a Summary last. Raises LocalaiError; closing the iterator cancels the work."""
    clock = Clock()
    with parts.ledger.entry(request) as entry:
        parts.metering.day.check()
        # In a thread: a name met for the first time is looked up on the disk.
        config, saving = parts.metering.eased(parts.config)
        choice = await asyncio.to_thread(route, request, parts.library, config, parts.market, saving)
        entry.routed(choice)
        async with parts.pool.lease(choice, request.keep_alive) as lease:
            async with aclosing(lease.load()) as stages:
                async for waiting in stages:
                    yield waiting
            clock.load_s = lease.load_s
            info = lease.engine.info
            yield Started(choice.id, choice.backend, lease.reason, info.n_ctx, request.id)
            request, used = await recollect(request, parts.memories, lease.engine)
            yield Recalled(used)
            prompt = await render(request, lease.engine, choice)
            limit, rates = request.max_joules, choice.rates
            with parts.metering.job(prompt.job.id, choice.key, limit, entry.took, rates) as spending:
                async with aclosing(decode(prompt, lease.engine, clock, spending, echo=request.echo)) as events:
                    async for event in events:
                        entry.saw(event)
                        yield event
