"""An engine for other work than an answer: to have it loaded, to count tokens, to look at a prompt.

A request that names a model enters; the loaded engine leaves, held as long as the caller needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from backends.handle import EngineHandle
from localai.choice import Choice
from localai.messages import Started, TurnEvent, TurnRequest
from localai.router import routed
from localai.turn import Parts


@dataclass(frozen=True, slots=True)
class Held:
    """An engine and why it serves."""

    engine: EngineHandle
    choice: Choice


@asynccontextmanager
async def held(request: TurnRequest, parts: Parts) -> AsyncIterator[Held]:
    """Load the engine that would serve `request`, and keep it for the block. Raises as an answer would."""
    choice = await asyncio.to_thread(routed, request, parts.library, parts.config, parts.market)
    async with parts.pool.lease(choice, request.keep_alive) as lease:
        async with aclosing(lease.load()) as stages:
            async for _ in stages:
                pass
        yield Held(lease.engine, choice)


async def load(request: TurnRequest, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    """The same as events, for a request that wants nothing but the model in memory: what is waited for, then Started.

    With `keep_alive` 0 the model is unloaded instead, as soon as it is idle.
    """
    choice = await asyncio.to_thread(routed, request, parts.library, parts.config, parts.market)
    if request.keep_alive == 0:
        await parts.pool.unload(choice.model.id)
        yield Started(choice.id, choice.backend, "unloaded", 0, request.id)
        return
    async with parts.pool.lease(choice, request.keep_alive) as lease:
        async with aclosing(lease.load()) as stages:
            async for waiting in stages:
                yield waiting
        yield Started(choice.id, choice.backend, lease.reason, lease.engine.info.n_ctx, request.id)
