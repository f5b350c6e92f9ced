"""Conversations over HTTP, for the terminal chat: read, write, and answer in place. The daemon owns them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from localai import unsent
from localai.api.openai_in import SamplingBody
from localai.api.openai_out import ChatStream
from localai.api.replies import Replies
from localai.api.tools import asked_json, used_json
from localai.api.wire import JsonRoute, data, json_response, stream
from localai.auto.answering import answer
from localai.conversation_room import room
from localai.conversation_search import ConversationSearch
from localai.conversations import Conversation, Conversations, StoredMessage
from localai.errors import BadRequest, LocalaiError
from localai.halting import Halt
from localai.messages import Message, ToolAsked, ToolUsed, TurnEvent, TurnRequest
from localai.tools.toolbox import Toolbox
from localai.tools.using import using_tools
from localai.turn import Parts


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


def routes(parts: Parts, kept: Conversations, toolbox: Toolbox, replies: Replies) -> APIRouter:
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
        return json_response(await _whole(kept, conversation, parts))

    @router.patch("/{conversation}")
    async def change(conversation: str, body: ChangeBody) -> Response:
        """Rename, pin, choose a model or system prompt, or show another branch (`head` "" shows none)."""
        given = body.model_dump(exclude_none=True)
        return json_response(asdict(await asyncio.to_thread(lambda: kept.update(conversation, **given))))

    @router.delete("/{conversation}")
    async def delete(conversation: str) -> dict[str, Any]:
        """Delete a conversation, all its messages, and what the chat kept unsent of it."""
        await asyncio.to_thread(kept.delete, conversation)
        await asyncio.to_thread(unsent.remove, parts.config.home / unsent.FOLDER, conversation)
        return {"deleted": conversation}

    @router.post("/{conversation}/reply")
    async def reply(conversation: str, body: ReplyBody, request: Request) -> Response:
        """Append a message and stream its answer, or answer `parent` again; what was received is kept."""
        halt = Halt()
        opening = await asyncio.to_thread(_open, kept, conversation, body, parts.config.memory, halt)
        out = _ReplyStream(opening)
        events = answer(opening.turn, parts)
        if body.tools:
            names = None if body.tools is True else body.tools
            events = using_tools(opening.turn, toolbox, names, lambda turn: answer(turn, parts))
        return await stream(replies.begin(events, opening.assistant, halt).events(), out)

    @router.post("/{conversation}/stop")
    async def stop(conversation: str) -> dict[str, Any]:
        """End the answers that are being written in it; their streams go on to their last event, with the figures."""
        await asyncio.to_thread(kept.get, conversation)
        return {"stopping": replies.stop(conversation)}

    return router


async def _whole(kept: Conversations, conversation: str, parts: Parts) -> dict[str, Any]:
    found = await asyncio.to_thread(kept.get, conversation)
    path = await asyncio.to_thread(kept.path, found.head) if found.head else ()
    name = await asyncio.to_thread(_meant, found.model or "default", parts)
    served = {slot.choice.model.id: slot.plan.n_ctx for slot in parts.pool.slots if slot.plan is not None}
    return _shown(found, path) | {"context": room(path, found.system, name, served)}


class _Opening(msgspec.Struct, frozen=True):
    """What a reply begins with: the new message of the person if any, the empty answer, and the request."""

    user: StoredMessage | None
    assistant: StoredMessage
    turn: TurnRequest


def _open(kept: Conversations, conversation: str, body: ReplyBody, memory: str, halt: Halt) -> _Opening:
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
        halt=halt,
        # The chat recalls unless it is told not to.
        memory=body.namespace(memory) if body.memory is not None else memory or None,
        **{**body.common(), "model": model, "n": 1, "priority": body.priority or "interactive"},
    )
    return _Opening(user, assistant, turn)


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


def _meant(model: str, parts: Parts) -> str | None:
    """The id that a name stands for; None where it is not here, or chosen anew for each question."""
    try:
        return parts.library.resolve(model).id
    except LocalaiError:
        return None


def _found(kept: Conversations, finder: ConversationSearch, query: str, limit: int) -> list[dict[str, Any]]:
    places = finder.find(query, max(1, min(limit, 500)))
    return [{**asdict(kept.get(place.conversation)), "found": asdict(place)} for place in places]
