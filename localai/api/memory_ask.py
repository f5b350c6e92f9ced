"""One question over many remembered documents: a chat answer with what each request of it took."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from localai.api import openai_out
from localai.api.caller import caller
from localai.api.openai_in import SamplingBody
from localai.api.wire import JsonRoute, data, gather, json_response, stream
from localai.inquiry import Inquiry, inquire
from localai.messages import Message, Summary, TurnEvent, TurnRequest
from localai.turn import Parts
from memory_store.records import DEFAULT_NAMESPACE


class AskBody(SamplingBody):
    query: str
    passages: Annotated[int, Field(ge=1, le=1000)] = 40


def routes(parts: Parts) -> APIRouter:
    """The route /localai/memory/ask."""
    router = APIRouter(prefix="/localai/memory", tags=["memory"], route_class=JsonRoute)

    @router.post("/ask")
    async def ask(body: AskBody, request: Request) -> Response:
        """Read what fits the question batch by batch, then answer from the findings; `ask` tells what each took."""
        usual, asker = parts.config.memory or DEFAULT_NAMESPACE, caller(request)
        named = body.memory if isinstance(body.memory, str) and body.memory else None
        common = {**body.common(), "priority": body.priority or "normal", "n": 1}
        turn = TurnRequest(
            kind="chat",
            messages=(Message("user", body.query),),
            app=asker.app if asker.visitor.token else "localai memory ask",
            trusted=asker.trusted,
            memory=asker.visitor.namespace(named, usual),
            **common,
        )
        inquiry = Inquiry(turn, body.passages)
        if body.stream:
            return await stream(inquire(inquiry, parts), _AskStream(inquiry))
        events = await gather(inquire(inquiry, parts), request)
        return json_response({**openai_out.chat(events), "ask": inquiry.as_json()}, inquiry.energy)

    return router


class _AskStream(openai_out.ChatStream):
    """Chat chunks with usage, and before the last one a frame that tells of the requests."""

    def __init__(self, inquiry: Inquiry) -> None:
        super().__init__(include_usage=True)
        self._inquiry = inquiry

    def __call__(self, event: TurnEvent) -> bytes:
        told = data({"type": "ask", **self._inquiry.as_json()}) if isinstance(event, Summary) else b""
        return told + super().__call__(event)
