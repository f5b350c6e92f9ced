"""Pinned memories over HTTP: which they are, and to pin one or no longer."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from localai.api.caller import Who
from localai.api.memory import meant, shown
from localai.api.wire import JsonRoute, json_response
from localai.memories import Memories


class PinBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pinned: bool = True


def routes(memories: Memories) -> APIRouter:
    """The routes /localai/memory/pins and /localai/memory/{id}/pin."""
    router = APIRouter(prefix="/localai/memory", tags=["memory"], route_class=JsonRoute)

    @router.get("/pins")
    async def pins(who: Who, namespace: str | None = None) -> Response:
        """The memories that go along with every question, the first pinned first."""
        namespace = who.namespace(namespace, usual=None)
        found = await asyncio.to_thread(memories.pinned, namespace)
        trusts = await asyncio.to_thread(memories.trust_in, found) if found else ()
        rows = [{**shown(memory), "trust": round(trust, 4)} for memory, trust in zip(found, trusts, strict=True)]
        return json_response({"memories": rows})

    @router.post("/{memory_id}/pin")
    async def pin(memory_id: str, body: PinBody, who: Who) -> Response:
        """Pin a memory, so that each answer is given it, or no longer."""
        (found,) = await asyncio.to_thread(meant, memories, [memory_id], who)
        await asyncio.to_thread(memories.pin, found.id, pinned=body.pinned)
        return json_response({"id": found.id, "pinned": body.pinned})

    return router
