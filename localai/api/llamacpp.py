"""llama-server's own dialect: completion, infill, tokens, templates, what is served; and re-ranking by embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from localai import __version__
from localai.api.asking import asked
from localai.api.caller import caller
from localai.api.llamacpp_in import (
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    InfillBody,
    RerankBody,
    TokenizeBody,
    completion_request,
    infill_request,
)
from localai.api.llamacpp_out import CompletionChunks
from localai.api.ollama_models import template_of
from localai.api.openai_in import ChatBody, chat_request
from localai.api.openai_out import energy
from localai.api.served import served_context
from localai.api.wire import JsonRoute, gather, gather_all, json_response, stream
from localai.context import render
from localai.errors import BadRequest
from localai.loading import held
from localai.messages import Embedded, Started, Summary, TurnEvent, TurnRequest
from localai.router import default_model
from localai.turn import Parts


def routes(parts: Parts) -> list[APIRouter]:
    """The dialect's routes over one daemon's parts."""
    router = APIRouter(tags=["llama.cpp"], route_class=JsonRoute)

    async def respond(turn: TurnRequest, body: CompletionBody, request: Request) -> Response:
        chunks = CompletionChunks(body.response_fields or ())
        if body.stream:
            return await stream(asked(turn, request, parts), chunks, chunks)
        events = await gather(asked(turn, request, parts), request)
        return json_response(chunks.whole(events), energy([events]))

    @router.post("/completion")
    async def completion(body: CompletionBody, request: Request) -> Response:
        """Continue a text, or tokens; several prompts get a list of answers."""
        bodies = body.each()
        if len(bodies) > 1:
            return await _several(bodies, request, parts)
        return await respond(completion_request(body, caller(request)), body, request)

    @router.post("/infill")
    async def infill(body: InfillBody, request: Request) -> Response:
        """Fill the middle; whoever types goes first, and closing the line stops the work at the next step."""
        return await respond(infill_request(body, caller(request)), body, request)

    @router.post("/apply-template")
    async def apply(body: ChatBody, request: Request) -> Response:
        """The prompt that these messages become."""
        turn = chat_request(body, caller(request))
        async with held(turn, parts) as found:
            prompt = await render(turn, found.engine, found.choice)
        return json_response({"prompt": prompt.text})

    @router.get("/props")
    async def props(model: str = "") -> Response:
        """What is served; loads nothing."""
        return json_response(await asyncio.to_thread(_props, parts, model))

    @router.get("/slots")
    async def slots() -> Response:
        """Engines in memory, as llama-server lists its slots."""
        return json_response(
            [
                {"id": n, "model": s.choice.model.id, "n_ctx": s.plan.n_ctx, "is_processing": s.users > 0}
                for n, s in enumerate(parts.pool.slots)
                if s.plan is not None
            ]
        )

    @router.post("/embedding")
    async def embedding(body: EmbeddingBody, request: Request) -> Response:
        """One unit vector per text, each in a list of its own."""
        texts = [body.content] if isinstance(body.content, str) else body.content
        answers = await _embedded(body.model, texts, request, parts)
        vectors = [event.vector for events in answers for event in events if isinstance(event, Embedded)]
        return json_response([{"index": n, "embedding": [v]} for n, v in enumerate(vectors)], energy(answers))

    for path in ("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"):
        router.add_api_route(path, _rerank_route(parts), methods=["POST"], operation_id=f"rerank{path}")
    return [router, _token_routes(parts)]


async def _embedded(model: str, texts: Sequence[str], request: Request, parts: Parts) -> list[list[TurnEvent]]:
    who = caller(request)
    usual: dict[str, Any] = {"model": model, "app": who.app, "trusted": who.trusted, "together": len(texts)}
    turns = [TurnRequest(kind="embedding", prompt=text, **usual) for text in texts]
    return await gather_all([asked(turn, request, parts) for turn in turns], request)


async def _several(bodies: Sequence[CompletionBody], request: Request, parts: Parts) -> Response:
    if bodies[0].stream:
        hint = "leave `stream` out, or send them one by one"
        raise BadRequest("several prompts are not streamed", hint, param="prompt")
    turns = [replace(completion_request(each, caller(request)), together=len(bodies)) for each in bodies]
    answers = await gather_all([asked(turn, request, parts) for turn in turns], request)
    shown = [CompletionChunks(bodies[0].response_fields or (), n).whole(events) for n, events in enumerate(answers)]
    return json_response(shown, energy(answers))


def _token_routes(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["llama.cpp"], route_class=JsonRoute)

    def asking(model: str, request: Request) -> TurnRequest:
        who = caller(request)
        return TurnRequest(kind="completion", model=model, prompt="", app=who.app, trusted=who.trusted)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody, request: Request) -> Response:
        """Ids of a text; `with_pieces` adds the text of each."""
        async with held(asking(body.model, request), parts) as found:
            engine = found.engine
            ids = await engine.tokenize(body.content, special=body.parse_special, add_bos=body.add_special)
            tokens: list[Any] = list(ids)
            if body.with_pieces:
                tokens = [{"id": one, "piece": await engine.detokenize([one])} for one in ids]
        return json_response({"tokens": tokens})

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody, request: Request) -> Response:
        """The text of ids."""
        async with held(asking(body.model, request), parts) as found:
            worst = max(body.tokens, default=0)
            if worst >= found.engine.info.n_vocab:
                raise BadRequest(f"{worst} is no token of this model", f"it has {found.engine.info.n_vocab}")
            return json_response({"content": await found.engine.detokenize(body.tokens)})

    return router


def _props(parts: Parts, name: str) -> dict[str, Any]:
    model = parts.library.resolve(name or default_model(parts.config), files=False)
    n_ctx = served_context(model, parts)
    return {
        "default_generation_settings": {"n_ctx": n_ctx, "params": dict(model.spec.sampling) if model.spec else {}},
        "total_slots": 16,
        "model_alias": model.id,
        "model_path": model.path.name,
        "modalities": {"vision": False, "audio": False},
        "chat_template": template_of(model),
        "build_info": f"localai-{__version__}",
        "is_sleeping": not any(s.handle and s.choice.model.id == (model.base or model).id for s in parts.pool.slots),
    }


def _rerank_route(parts: Parts) -> Any:
    async def rerank(body: RerankBody, request: Request) -> Response:
        """Documents by how near their embeddings are to the query's."""
        texts = body.texts()
        answers = await _embedded(body.model, (body.query, *texts), request, parts)
        vectors = [event.vector for events in answers for event in events if isinstance(event, Embedded)]
        scores = [sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors[1:]]
        order = sorted(range(len(texts)), key=lambda place: -scores[place])[: body.top_n]
        rows = [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": texts[place]}} if body.return_documents else {})
            for place in order
        ]
        tokens = sum(e.prompt_tokens for events in answers for e in events if isinstance(e, Summary))
        spent = energy(answers)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "energy": spent.as_json() if spent else None}
        served = next((event.model for events in answers for event in events if isinstance(event, Started)), "")
        return json_response({"model": body.model or served, "object": "list", "results": rows, "usage": usage}, spent)

    return rerank
