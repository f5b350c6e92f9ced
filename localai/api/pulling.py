"""Bringing a model here over HTTP, on the Unix socket: server-sent events tell how far it is."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from localai.api.error_shapes import error_body
from localai.api.ollama_manage import progress, pulling
from localai.api.openai_in import ModelName
from localai.api.wire import DONE, JsonRoute, data
from localai.library import Library


class PullBody(BaseModel):
    model: ModelName


def routes(library: Library) -> APIRouter:
    """The route /localai/pull."""
    router = APIRouter(tags=["daemon"], route_class=JsonRoute)

    @router.post("/localai/pull")
    async def pull(body: PullBody) -> Response:
        """Bring a model here; a client that goes away stops the download, and what has arrived is kept."""
        return StreamingResponse(_events(library, body.model), media_type="text/event-stream")

    return router


async def _events(library: Library, name: str) -> AsyncIterator[bytes]:
    async for event in progress(pulling(library, name), data, error_body):
        yield event
    yield DONE
