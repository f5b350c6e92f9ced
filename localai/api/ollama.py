"""Ollama's dialect: chat, generate, embed, and what models there are. Lines of NDJSON where it streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from localai import __version__
from localai.api import ollama_manage, ollama_models, ollama_out
from localai.api.asking import asked
from localai.api.caller import caller
from localai.api.ollama_in import (
    ChatBody,
    EmbedBody,
    GenerateBody,
    chat_request,
    embed_requests,
    generate_request,
    library_name,
    load_request,
)
from localai.api.ollama_manage import NamedBody
from localai.api.ollama_out import Kind, Lines
from localai.api.openai_out import energy
from localai.api.served import served_context
from localai.api.wire import JsonRoute, NdjsonFrames, gather, gather_all, json_response, stream
from localai.errors import LocalaiError
from localai.loading import load
from localai.messages import Message, TurnEvent, TurnRequest
from localai.router import default_model, meant
from localai.turn import Parts

_BUCKET = 4096
_FRAMES = NdjsonFrames()


def routes(parts: Parts) -> list[APIRouter]:
    """The dialect's routes over one daemon's parts."""
    whole = APIRouter(tags=["Ollama"], route_class=JsonRoute)
    router = APIRouter(prefix="/api", tags=["Ollama"], route_class=JsonRoute)

    @whole.get("/")
    async def root() -> Response:
        """Alive; Ollama's clients look here."""
        return PlainTextResponse("localai is running (Ollama is running)")

    @router.get("/version")
    async def version() -> Response:
        """The version of the API, and ours."""
        return json_response({"version": ollama_models.SPOKEN, "localai": __version__})

    @router.get("/tags")
    async def tags() -> Response:
        """Models that can be used now."""
        return json_response(await asyncio.to_thread(ollama_models.tags, parts))

    @router.get("/ps")
    async def ps() -> Response:
        """Models in memory."""
        return json_response(await asyncio.to_thread(ollama_models.running, parts))

    @router.post("/show")
    async def show(body: NamedBody) -> Response:
        """All about one model."""
        name = meant(library_name(body.model), parts.config)
        return json_response(await asyncio.to_thread(ollama_models.show, parts, name))

    @router.post("/chat")
    async def chat(body: ChatBody, request: Request) -> Response:
        """A chat answer; without messages, the model is loaded."""
        turn = chat_request(body, caller(request))
        return await _answer(turn, "chat", body.model, body.stream is not False, request, parts)

    @router.post("/generate")
    async def generate(body: GenerateBody, request: Request) -> Response:
        """An answer to one prompt; without one, the model is loaded."""
        turn = generate_request(body, caller(request))
        return await _answer(turn, "generate", body.model, body.stream is not False, request, parts)

    @router.post("/embed")
    async def embed(body: EmbedBody, request: Request) -> Response:
        """One unit vector per text."""
        answers = await _embedded(embed_requests(body, caller(request)), body, request, parts)
        found = ollama_out.embeddings(answers, body.model, body.dimensions)
        return json_response(found, energy(answers))

    @router.post("/embeddings")
    async def embeddings(body: EmbedBody, request: Request) -> Response:
        """The older form: one text, one vector."""
        answers = await _embedded(embed_requests(body, caller(request))[:1], body, request, parts)
        found = ollama_out.embeddings(answers, body.model, None)["embeddings"]
        return json_response({"embedding": found[0] if found else []}, energy(answers))

    return [whole, router, ollama_manage.routes(parts)]


async def _embedded(
    turns: Sequence[TurnRequest], body: EmbedBody, request: Request, parts: Parts
) -> list[list[TurnEvent]]:
    """What became of each text; where there is none, the model is loaded."""
    if not turns:
        await gather(load(load_request(body, caller(request)), parts), request)
    return await gather_all([asked(turn, request, parts) for turn in turns], request)


async def _answer(
    turn: TurnRequest, kind: Kind, named: str, streamed: bool, request: Request, parts: Parts
) -> Response:
    if turn.n_ctx:
        turn = replace(turn, n_ctx=await asyncio.to_thread(_wished, turn, parts))
    if not turn.messages and not turn.prompt and turn.suffix is None:
        lines = Lines(kind, named)
        events = await gather(load(turn, parts), request)
        return json_response(lines.loaded(events, unloaded=turn.keep_alive == 0))
    said: Sequence[Message] = turn.messages if kind == "generate" else ()
    lines = Lines(kind, named, said)
    if streamed:
        return await stream(asked(turn, request, parts), lines, _FRAMES)
    events = await gather(asked(turn, request, parts), request)
    return json_response(lines.whole(events), energy([events]))


def _wished(turn: TurnRequest, parts: Parts) -> int | None:
    """`num_ctx` as the least context that is wanted, in steps, so that clients that vary it reload nothing.

    None where the usual context covers it.
    """
    assert turn.n_ctx is not None
    try:
        model = parts.library.resolve(turn.model or default_model(parts.config), files=False)
    except LocalaiError:
        # The turn itself says what is wrong with the name.
        return None
    if turn.n_ctx <= served_context(model, parts):
        return None
    trained = model.header.n_ctx_train if model.header else None
    least = -(-turn.n_ctx // _BUCKET) * _BUCKET
    wished = min(least, trained or least)
    return wished if wished > served_context(model, parts) else None
