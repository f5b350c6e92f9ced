"""OpenAI's dialect: /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from localai.api import openai_out
from localai.api.asking import asked
from localai.api.caller import caller
from localai.api.openai_in import (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    chat_request,
    completion_requests,
    embedding_requests,
)
from localai.api.wire import JsonRoute, gather, gather_all, json_response, stream
from localai.messages import Embedded, Started, Summary, TurnEvent, TurnRequest
from localai.router import spoken_of
from localai.turn import Parts


def routes(parts: Parts) -> APIRouter:
    """The dialect's routes over one daemon's parts."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute)

    @router.get("/models")
    async def models(request: Request) -> Response:
        """Models that can be used now, the default one first; with `anthropic-version`, in that dialect's words too."""
        found = openai_out.models(await asyncio.to_thread(parts.library.list), parts)
        found += openai_out.upstream_models(await parts.upstreams.models())
        listed: dict[str, Any] = {"object": "list", "data": found}
        if "anthropic-version" in request.headers:
            listed["data"] = [openai_out.named(row) for row in found]
            listed |= {"has_more": False, "first_id": found[0]["id"] if found else None}
            listed["last_id"] = found[-1]["id"] if found else None
        return json_response(listed)

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        """One model."""
        away = [found for found in await parts.upstreams.models() if found[0] == name]
        if away:
            return json_response(openai_out.upstream_models(away)[0])
        wanted = spoken_of(name, parts.config)
        found = await asyncio.to_thread(parts.library.resolve, wanted, files=False)
        return json_response(openai_out.models([found], parts)[0])

    @router.post("/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        """A chat answer; with `stream`, as server-sent events."""
        turn = chat_request(body, caller(request))
        if body.stream:
            out = openai_out.ChatStream(include_usage=body.wants_usage())
            return await stream(asked(turn, request, parts), out)
        events = await gather(asked(turn, request, parts), request)
        return json_response(openai_out.chat(events), openai_out.energy([events]))

    @router.post("/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continue a text, or fill the middle between `prompt` and `suffix`."""
        turns = completion_requests(body, caller(request))
        if body.stream:
            out = openai_out.CompletionStream(include_usage=body.wants_usage(), prompts=len(turns), n=body.n or 1)
            return await stream(_in_turn(turns, request, parts), out)
        found = await gather_all([asked(t, request, parts) for t in turns], request)
        return json_response(openai_out.completion(found), openai_out.energy(found))

    @router.post("/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        """One unit vector per input."""
        turns = embedding_requests(body, caller(request))
        answers = await gather_all([asked(turn, request, parts) for turn in turns], request)
        found = _embeddings(answers, turns[0].model, body.encoding_format == "base64", body.dimensions)
        return json_response(found, openai_out.energy(answers))

    return router


async def _in_turn(turns: list[TurnRequest], request: Request, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    for turn in turns:
        async with aclosing(asked(turn, request, parts)) as events:
            async for event in events:
                yield event


def _embeddings(answers: list[list[TurnEvent]], model: str, as_base64: bool, width: int | None) -> dict[str, Any]:
    rows, tokens = [], 0
    for index, events in enumerate(answers):
        for event in events:
            if isinstance(event, Started):
                model = model or event.model
            elif isinstance(event, Embedded):
                vector = openai_out.shortened(event.vector, width)
                value = base64.b64encode(array("f", vector).tobytes()).decode() if as_base64 else vector
                rows.append({"object": "embedding", "index": index, "embedding": value})
            elif isinstance(event, Summary):
                tokens += event.prompt_tokens
    spent = openai_out.energy(answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "energy": spent.as_json() if spent else None}
    return {"object": "list", "data": rows, "model": model, "usage": usage}
