"""Conversations over HTTP, for the terminal chat: read, write, and answer in place. The daemon owns them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from threading import Lock
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from localai.api.openai_in import SamplingBody
from localai.api.openai_out import ChatStream, memories, timings, usage
from localai.api.tools import asked_json, used_json
from localai.api.wire import JsonRoute, data, json_response, stream
from localai.auto.answering import answer
from localai.conversation_search import ConversationSearch
from localai.conversations import Conversation, Conversations, StoredMessage
from localai.errors import BadRequest, LocalaiError
from localai.messages import (
    ChoiceDone,
    Delta,
    Message,
    Recalled,
    Started,
    Summary,
    ToolAsked,
    ToolUsed,
    TurnEvent,
    TurnRequest,
)
from localai.tools.toolbox import Toolbox
from localai.tools.using import using_tools
from localai.turn import Parts

_FLUSH_S = 0.25
"""Seconds of received text that a crash of the daemon may cost."""


class NewBody(BaseModel):
    title: str = ""
    model: str | None = None
    system: str = ""


class ChangeBody(BaseModel):
    title: str | None = None
    model: str | None = None
    system: str | None = None
    head: str | None = None
    pinned: bool | None = None


class ReplyBody(SamplingBody):
    content: str | None = None
    parent: str | None = None
    tools: bool | list[str] = Field(False, description="Tools of the daemon's MCP servers: all, or these")


def routes(parts: Parts, kept: Conversations, toolbox: Toolbox) -> APIRouter:
    """The routes under /localai/conversations."""
    router = APIRouter(prefix="/localai/conversations", tags=["conversations"], route_class=JsonRoute)
    finder = ConversationSearch(kept)

    @router.get("")
    async def listing(limit: int = 50, before: str | None = None, search: str = "") -> Response:
        """Conversations, pinned ones first, then the last touched; with `search`, those that hold or mean it."""
        if search.strip():
            return json_response({"conversations": await asyncio.to_thread(_found, kept, finder, search, limit)})
        found = await asyncio.to_thread(kept.list, limit=max(1, min(limit, 500)), before=before)
        return json_response({"conversations": [asdict(c) for c in found]})

    @router.post("")
    async def create(body: NewBody) -> Response:
        """Begin a conversation."""
        system = body.system or parts.config.system
        made = await asyncio.to_thread(kept.create, title=body.title, model=body.model, system=system)
        return json_response(_shown(made, ()))

    @router.get("/{conversation}")
    async def read(conversation: str) -> Response:
        """A conversation with the messages from its root to its head."""
        found = await asyncio.to_thread(kept.get, conversation)
        path = await asyncio.to_thread(kept.path, found.head) if found.head else ()
        return json_response(_shown(found, path))

    @router.patch("/{conversation}")
    async def change(conversation: str, body: ChangeBody) -> Response:
        """Rename, pin, choose a model or system prompt, or show another branch (`head` "" shows none)."""
        given = body.model_dump(exclude_none=True)
        return json_response(asdict(await asyncio.to_thread(lambda: kept.update(conversation, **given))))

    @router.delete("/{conversation}")
    async def delete(conversation: str) -> dict[str, Any]:
        """Delete a conversation and all its messages."""
        await asyncio.to_thread(kept.delete, conversation)
        return {"deleted": conversation}

    @router.post("/{conversation}/reply")
    async def reply(conversation: str, body: ReplyBody, request: Request) -> Response:
        """Append a message and stream its answer, or answer `parent` again; what was received is kept."""
        opening = await asyncio.to_thread(_open, kept, conversation, body, parts.config.memory)
        out = _ReplyStream(opening)
        events = answer(opening.turn, parts)
        if body.tools:
            names = None if body.tools is True else body.tools
            events = using_tools(opening.turn, toolbox, names, lambda turn: answer(turn, parts))
        return await stream(_kept(events, kept, opening.assistant), out)

    return router


class _Opening(msgspec.Struct, frozen=True):
    """What a reply begins with: the new message of the person if any, the empty answer, and the request."""

    user: StoredMessage | None
    assistant: StoredMessage
    turn: TurnRequest


def _open(kept: Conversations, conversation: str, body: ReplyBody, memory: str) -> _Opening:
    found = kept.get(conversation)
    # A parent given as null begins a branch at the root; one left out continues the branch that is shown.
    parent, user = body.parent if "parent" in body.model_fields_set else found.head, None
    if body.content is not None:
        user = kept.append(conversation, parent, "user", body.content)
        parent = user.id
    if parent is None:
        raise BadRequest("there is nothing to answer yet", "send `content`", param="content")
    path = kept.path(parent)
    if path[-1].role != "user":
        raise BadRequest("`parent` is not a message of yours", "send `content`, or the id of a user message")
    model = body.model or found.model or ""
    assistant = kept.append(conversation, parent, "assistant", "", model=model)
    messages = [Message("system", found.system)] if found.system else []
    messages += [Message(m.role, m.content) for m in path]
    turn = TurnRequest(
        kind="chat",
        messages=tuple(messages),
        conversation=conversation,
        app="localai chat",
        trusted=True,
        # The chat recalls unless it is told not to.
        memory=body.namespace(memory) if body.memory is not None else memory or None,
        **{**body.common(), "model": model, "n": 1, "priority": body.priority or "interactive"},
    )
    return _Opening(user, assistant, turn)


async def _kept(
    events: AsyncGenerator[TurnEvent, None], kept: Conversations, message: StoredMessage
) -> AsyncGenerator[TurnEvent, None]:
    """Pass events on and write the answer down as it comes, so that neither side's crash loses what was said."""
    notes = _Notes(kept, message)
    reason, spent, model = "cancelled", None, None
    figures: dict[str, Any] = {}
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    model = event.model
                    figures |= {"backend": event.backend, "reason": event.reason, "n_ctx": event.n_ctx or None}
                elif isinstance(event, Recalled):
                    figures["memories"] = memories(event)
                elif isinstance(event, Delta):
                    await notes.take(event)
                elif isinstance(event, ToolUsed):
                    figures["tools"] = [*figures.get("tools", ()), used_json(event)]
                elif isinstance(event, ChoiceDone):
                    reason = event.reason
                elif isinstance(event, Summary):
                    spent = usage(event)
                    figures["timings"] = timings(event)
                yield event
    except LocalaiError:
        reason = "error"
        raise
    finally:
        notes.write()
        kept.finish(message.id, reason, spent, model=model, figures=figures or None)


class _Notes:
    """Text of a message that is not written down yet."""

    def __init__(self, kept: Conversations, message: StoredMessage) -> None:
        self._kept = kept
        self._message = message
        self._deltas: list[Delta] = []
        self._turn = Lock()
        self._written = time.monotonic()

    async def take(self, delta: Delta) -> None:
        self._deltas.append(delta)
        if time.monotonic() - self._written > _FLUSH_S:
            self._written = time.monotonic()
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write what is held. Not awaited at the end, because a request that is being cancelled cannot wait.

        A write in a thread outlives its cancelled waiter; the lock keeps its text before this one's.
        """
        with self._turn:
            deltas, self._deltas = self._deltas, []
            content = "".join(delta.content for delta in deltas)
            self._kept.extend(self._message.id, content, reasoning="".join(delta.reasoning for delta in deltas))


class _ReplyStream(ChatStream):
    """Chat chunks with usage, after one frame that names the messages."""

    def __init__(self, opening: _Opening) -> None:
        super().__init__(include_usage=True)
        user = asdict(opening.user) if opening.user else None
        self._first = data({"type": "message", "user": user, "assistant": asdict(opening.assistant)})

    def __call__(self, event: TurnEvent) -> bytes:
        first, self._first = self._first, b""
        if isinstance(event, ToolAsked):
            return first + data(asked_json(event))
        return first + (data(used_json(event)) if isinstance(event, ToolUsed) else super().__call__(event))


def _shown(conversation: Conversation, path: tuple[StoredMessage, ...]) -> dict[str, Any]:
    return {**asdict(conversation), "messages": [asdict(m) for m in path]}


def _found(kept: Conversations, finder: ConversationSearch, query: str, limit: int) -> list[dict[str, Any]]:
    places = finder.find(query, max(1, min(limit, 500)))
    return [{**asdict(kept.get(place.conversation)), "found": asdict(place)} for place in places]
