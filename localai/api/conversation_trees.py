"""Branches of conversations and whole conversations over HTTP: the tree, fork, cut, export, import."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.attached import typed_of
from localai.conversation_files import ENDINGS, Kind, exported
from localai.conversation_imports import imported
from localai.conversation_search import snippet
from localai.conversations import Conversation, Conversations
from localai.errors import NotFound


class ForkBody(BaseModel):
    message: str


class ImportBody(BaseModel):
    content: list[Any] | dict[str, Any]


def routes(kept: Conversations) -> APIRouter:
    """The routes under /localai/conversations that are about more than the branch that is shown."""
    router = APIRouter(prefix="/localai/conversations", tags=["conversations"], route_class=JsonRoute)

    @router.get("/{conversation}/tree")
    async def tree(conversation: str) -> Response:
        """Every message of every branch, parents first, with the first words of each."""
        found = await asyncio.to_thread(kept.tree, conversation)
        head = (await asyncio.to_thread(kept.get, conversation)).head
        names = ("id", "parent", "role", "model", "finish_reason", "created")
        rows = [{name: getattr(m, name) for name in names} | {"snippet": snippet(typed_of(m.content))} for m in found]
        return json_response({"head": head, "messages": rows})

    @router.post("/{conversation}/fork")
    async def fork(conversation: str, body: ForkBody) -> Response:
        """A new conversation with a copy of everything up to `message`."""
        return json_response(asdict(await asyncio.to_thread(_fork, kept, conversation, body.message)))

    @router.delete("/{conversation}/messages/{message}")
    async def cut(conversation: str, message: str) -> Response:
        """Delete a message and all that follows from it."""
        found = await asyncio.to_thread(kept.message, message)
        if found.conversation != conversation:
            raise NotFound(f"no message {message!r} in this conversation", "its tree lists them")
        return json_response(asdict(await asyncio.to_thread(kept.cut, message)))

    @router.get("/{conversation}/export")
    async def export(conversation: str, kind: Kind = "markdown") -> Response:
        """The conversation as the text of a file, and a name for that."""
        return json_response(await asyncio.to_thread(_exported, kept, conversation, kind))

    @router.post("/import")
    async def bring_in(body: ImportBody) -> Response:
        """All chats of a file of ChatGPT, Open WebUI, Ollama or our own; none where it is damaged."""
        made = await asyncio.to_thread(_import, kept, body.content)
        return json_response({"conversations": [asdict(chat) for chat in made]})

    return router


def _fork(kept: Conversations, conversation: str, message: str) -> Conversation:
    path = kept.path(message)
    chat = kept.get(conversation)
    if path[-1].conversation != conversation:
        raise NotFound(f"no message {message!r} in this conversation", "its tree lists them")
    made = kept.create(title=chat.title, model=chat.model, system=chat.system)
    return kept.plant(made.id, path, message)


def _exported(kept: Conversations, conversation: str, kind: Kind) -> dict[str, Any]:
    chat = kept.get(conversation)
    path = kept.path(chat.head) if chat.head else ()
    name = "".join(c if c.isalnum() else "-" for c in chat.title.lower()).strip("-") or "conversation"
    return {"name": name + ENDINGS[kind], "content": exported(kind, chat, path, kept.tree(conversation))}


def _import(kept: Conversations, content: Any) -> list[Conversation]:
    return [
        kept.plant(kept.create(title=chat.title, model=chat.model, system=chat.system).id, chat.messages, chat.head)
        for chat in imported(content)
    ]
