"""The ASGI application: routes, the door before them, and one place where errors become answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from localai import __version__
from localai.api import (
    admin,
    anthropic,
    bench_reports,
    catalog,
    conversation_trees,
    conversations,
    llamacpp,
    lmstudio,
    memory,
    memory_ask,
    memory_feedback,
    memory_files,
    memory_pins,
    ollama,
    openai,
    pulling,
    responses,
)
from localai.api import tokens as token_routes
from localai.api import tools as tool_routes
from localai.api.direct import Direct
from localai.api.gate import Gate
from localai.api.replies import Replies
from localai.api.security import Door
from localai.api.wire import ClientGone, error_response, json_response
from localai.conversations import Conversations
from localai.errors import BadRequest, LocalaiError, NotFound, from_memory
from localai.forgetting import Forgetting
from localai.kv_cache import KvCache
from localai.metrics import Metrics
from localai.tools.toolbox import Toolbox
from localai.turn import Parts
from localai.watched import WatchedFolders
from memory_store.errors import MemoryStoreError

_log = logging.getLogger(__name__)


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is wrong, or the prompt does not fit"},
    401: {"description": "Unknown token, or none where one is needed"},
    403: {"description": "Foreign Host or Origin, or a scope that is lacking"},
    404: {"description": "No such model, conversation or route"},
    405: {"description": "The route takes another method"},
    408: {"description": "The body took too long to arrive"},
    409: {"description": "In use, or there already"},
    413: {"description": "Body over the limit"},
    422: {"description": "The model's file or template is damaged"},
    429: {"description": "Too many requests wait"},
    500: {"description": "A fault of the daemon itself; the log tells more"},
    502: {"description": "The engine died, and a retry starts a new one; or an upstream failed"},
    503: {"description": "Stopping, or the engine rests after repeated deaths"},
    504: {"description": "The request's deadline passed"},
    507: {"description": "Not enough memory"},
}


class _MethodNotAllowed(BadRequest):
    status = 405
    code = "method_not_allowed"


def build(
    parts: Parts,
    kept: Conversations,
    metrics: Metrics,
    kv_cache: KvCache,
    watched: WatchedFolders,
    gate: Gate,
    toolbox: Toolbox,
    replies: Replies,
    *,
    started: float,
    stop: Callable[[], None],
) -> ASGIApp:
    """The application over one daemon's parts."""
    app = FastAPI(
        title="localai",
        version=__version__,
        description="A private AI runtime on your own machine.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=ERRORS,
    )
    forgetting = Forgetting(parts.memories, kept, parts.answers, kv_cache, parts.config.home)
    routers = [
        openai.routes(parts),
        responses.routes(parts),
        *ollama.routes(parts),
        *llamacpp.routes(parts),
        lmstudio.routes(parts),
        anthropic.routes(parts),
        admin.routes(parts, metrics, kv_cache, started, stop),
        catalog.routes(parts),
        token_routes.routes(gate.tokens),
        conversation_trees.routes(kept),
        conversations.routes(parts, kept, toolbox, replies),
        tool_routes.routes(toolbox),
        bench_reports.routes(parts.config.home),
        pulling.routes(parts.library),
        memory_files.routes(watched),
        memory_ask.routes(parts),
        memory_feedback.routes(parts.memories),
        memory_pins.routes(parts.memories),
        memory.routes(parts.memories, forgetting, watched),
    ]
    for router in routers:
        app.include_router(router)
    app.add_route("/openapi.json", _document, include_in_schema=False)
    _handle_errors(app)
    config = parts.config
    hosts = {*config.allowed_hosts} | ({config.host} if config.host not in ("0.0.0.0", "::") else set())
    return Door(
        Direct(app, routers, app.exception_handlers),
        gate,
        hosts=hosts,
        origins=config.allowed_origins,
        max_body=config.max_body,
        body_s=config.body_timeout,
    )


def _handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(LocalaiError, _own)
    app.add_exception_handler(MemoryStoreError, _memory)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _document(request: Request) -> Response:
    """The whole document. It takes a while to write, once, which must keep nobody waiting."""
    return json_response(await asyncio.to_thread(request.app.openapi))


async def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, LocalaiError)
    return error_response(error, request.url.path)


async def _memory(request: Request, error: Exception) -> Response:
    assert isinstance(error, MemoryStoreError)
    return error_response(from_memory(error), request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    reason = str(first.get("ctx", {}).get("error") or first["msg"])
    return error_response(
        BadRequest(f"{where}: {reason}", "see /openapi.json for what is expected", param=where), request.url.path
    )


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, LocalaiError):
        # FastAPI wraps whatever goes wrong while it reads a body.
        return error_response(error.__cause__, request.url.path)
    if error.status_code == 404:
        return error_response(NotFound("no such route", "see /openapi.json for what there is"), request.url.path)
    if error.status_code == 405:
        answer = error_response(
            _MethodNotAllowed("this route takes another method", "see /openapi.json"), request.url.path
        )
        answer.headers.update(error.headers or {})
        return answer
    return error_response(BadRequest(str(error.detail), "send JSON in UTF-8"), request.url.path)


async def _gone(_: Request, error: Exception) -> Response:
    # Nobody reads this; 499 is what access logs use for a client that left.
    return Response(status_code=499)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(
        LocalaiError("something went wrong inside the daemon", "`localai logs` tells more"), request.url.path
    )
