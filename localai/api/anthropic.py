"""Anthropic's dialect: /v1/messages and its token counter."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from localai.api.anthropic_in import CountBody, MessagesBody, count_request, messages_request
from localai.api.anthropic_out import MessageStream, message
from localai.api.asking import asked
from localai.api.caller import caller
from localai.api.openai_out import energy
from localai.api.wire import JsonRoute, gather, json_response, stream
from localai.context import render
from localai.errors import ContextExceeded
from localai.loading import held
from localai.messages import TurnRequest
from localai.turn import Parts


def routes(parts: Parts) -> APIRouter:
    """The dialect's routes over one daemon's parts."""
    router = APIRouter(prefix="/v1/messages", tags=["Anthropic"], route_class=JsonRoute)

    @router.post("")
    async def messages(body: MessagesBody, request: Request) -> Response:
        """One answer; with `stream`, as named events."""
        turn = messages_request(body, caller(request))
        if body.stream:
            frames = MessageStream()
            return await stream(asked(turn, request, parts), frames, frames)
        events = await gather(asked(turn, request, parts), request)
        return json_response(message(events), energy([events]))

    @router.post("/count_tokens")
    async def count(body: CountBody, request: Request) -> Response:
        """Tokens of a prompt as the model would get it, tools and template included."""
        return json_response({"input_tokens": await prompt_tokens(count_request(body, caller(request)), parts)})

    return router


async def prompt_tokens(request: TurnRequest, parts: Parts) -> int:
    """How long the prompt of `request` is in tokens, whether it fits or not."""
    async with held(request, parts) as found:
        try:
            prompt = await render(request, found.engine, found.choice)
        except ContextExceeded as error:
            return error.prompt_tokens
        return len(prompt.job.tokens)
