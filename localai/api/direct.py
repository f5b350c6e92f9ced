"""Requests to routes that need nothing but their body, answered without the framework around them.

A request enters; the route is looked up by method and path instead of being searched for. What is not in the table goes
to the application. It knows no route and no dialect.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

from localai.api.wire import ClientGone, JsonRequest, JsonRoute

Endpoint = Callable[[Request], Awaitable[Response]]
_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}


class Direct:
    """ASGI application before `app`: the routes of `routers` that are plain enough, with `app`'s own error handlers."""

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter], handlers: Mapping[Any, ExceptionHandler]) -> None:
        self._app = app
        self._table = {
            (method, route.path): endpoint
            for router in routers
            for route in router.routes
            if (endpoint := _endpoint(route)) is not None and isinstance(route, JsonRoute)
            for method in route.methods or ()
        }
        known = {kind: handler for kind, handler in handlers.items() if kind is not Exception}
        self._run = ServerErrorMiddleware(ExceptionMiddleware(self._answer, known), handlers[Exception])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) in self._table:
            await self._run(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._table[scope["method"], scope["path"]](JsonRequest(scope, receive))
        await response(scope, receive, send)


def _endpoint(route: BaseRoute) -> Endpoint | None:
    """What answers a request to `route`; None where that takes more than its body: parameters, or a model of it."""
    if not isinstance(route, JsonRoute) or "{" in route.path:
        return None
    needs, function = route.dependant, route.endpoint
    more = (needs.path_params, needs.query_params, needs.header_params, needs.cookie_params, needs.dependencies)
    returns = inspect.signature(function).return_annotation
    if any(more) or len(needs.body_params) > 1 or returns not in (Response, Response.__name__):
        return None
    named = needs.request_param_name
    if not needs.body_params:
        return cast(Endpoint, function) if named else _without_request(function)
    field = needs.body_params[0]
    body: TypeAdapter[Any] = TypeAdapter(cast(Any, field.field_info.annotation))

    async def answer(request: Request) -> Response:
        given: dict[str, Any] = {field.name: await _read(request, body)}
        if named:
            given[named] = request
        return cast(Response, await function(**given))

    return answer


def _without_request(function: Callable[[], Awaitable[Response]]) -> Endpoint:
    return lambda _: function()


async def _read(request: Request, body: TypeAdapter[Any]) -> Any:
    try:
        value = await request.json() if await request.body() else None
    except ClientDisconnect as error:
        raise ClientGone from error
    if value is None:
        raise RequestValidationError([_MISSING])
    try:
        return body.validate_python(value)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error
