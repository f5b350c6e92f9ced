"""Feedback on what the memory found, over HTTP: what was kept, and what was learned from it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from starlette.responses import Response

from localai.api.caller import Who
from localai.api.memory import Name, SearchBody
from localai.api.wire import JsonRoute, json_response
from localai.memories import Memories

if TYPE_CHECKING:
    from memory_store.recall import Question


class FeedbackBody(SearchBody):
    kept: tuple[Name, ...]
    shown: tuple[Name, ...] | None = None
    how: Literal["kept", "cited", "pinned"] = "kept"


def routes(memories: Memories) -> APIRouter:
    """The routes under /localai/memory/feedback."""
    router = APIRouter(prefix="/localai/memory/feedback", tags=["memory"], route_class=JsonRoute)

    @router.post("")
    async def record(body: FeedbackBody, who: Who) -> Response:
        """Note which hits of a search were kept; `used` says whether a learned ranking is in use after that."""
        return json_response(await asyncio.to_thread(_record, memories, body, body.question(who)))

    @router.get("")
    async def state(who: Who) -> Response:
        """How many events there are, and what was learned from them."""
        who.whole_memory()
        return json_response(await asyncio.to_thread(lambda: memories.feedback.state()))

    return router


def _record(memories: Memories, body: FeedbackBody, question: Question) -> dict[str, Any]:
    return asdict(memories.feedback.record(question, body.kept, shown=body.shown, how=body.how))
