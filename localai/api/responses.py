"""OpenAI's newer dialect: /v1/responses, with the earlier ones that a request may continue."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from localai.api.anthropic import prompt_tokens
from localai.api.asking import asked
from localai.api.caller import caller
from localai.api.kept_responses import KeptResponses
from localai.api.openai_out import energy
from localai.api.responses_in import ResponsesBody, responses_request
from localai.api.responses_out import ResponseStream
from localai.api.wire import JsonRoute, gather, json_response, stream
from localai.messages import Summary, TurnEvent, TurnRequest
from localai.turn import Parts


def routes(parts: Parts) -> APIRouter:
    """The dialect's routes over one daemon's parts."""
    router = APIRouter(prefix="/v1/responses", tags=["OpenAI"], route_class=JsonRoute)
    kept = KeptResponses()

    def opened(body: ResponsesBody, request: Request) -> TurnRequest:
        earlier = kept.get(body.previous_response_id).messages if body.previous_response_id else ()
        return responses_request(body, earlier, caller(request))

    @router.post("")
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """One answer; with `stream`, as named events. It is kept for a while, unless `store` is false."""
        turn, out = opened(body, request), ResponseStream(body)
        # Instructions hold for one response alone.
        said = turn.messages[1:] if body.instructions else turn.messages

        def keep() -> None:
            if body.store is not False:
                kept.add(out.response, (*said, out.said))

        def translate(event: TurnEvent) -> bytes:
            frame = out(event)
            if isinstance(event, Summary):
                keep()
            return frame

        if body.stream:
            return await stream(asked(turn, request, parts), translate, out)
        events = await gather(asked(turn, request, parts), request)
        whole = out.whole(events)
        keep()
        return json_response(whole, energy([events]))

    @router.post("/input_tokens")
    async def count(body: ResponsesBody, request: Request) -> Response:
        """Tokens of a prompt as the model would get it."""
        tokens = await prompt_tokens(opened(body, request), parts)
        return json_response({"object": "response.input_tokens", "input_tokens": tokens})

    @router.get("/{name}")
    async def read(name: str) -> Response:
        """A response that is still kept."""
        return json_response(kept.get(name).response)

    @router.delete("/{name}")
    async def delete(name: str) -> Response:
        """Keep it no longer."""
        kept.drop(name)
        return json_response({"id": name, "object": "response.deleted", "deleted": True})

    return router
