"""Tokens over HTTP: made, listed and revoked by the owner, or by a token of scope admin."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.tokens import Scope, Token, Tokens

Name = Annotated[str, Field(max_length=256)]


class TokenBody(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: Name
    scopes: tuple[Scope, ...] = ("infer",)
    namespaces: tuple[Name, ...] = ()
    requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    joules_per_day: Annotated[float, Field(ge=0, le=1e12)] = 0.0


def routes(tokens: Tokens) -> APIRouter:
    """The routes under /localai/tokens."""
    router = APIRouter(prefix="/localai/tokens", tags=["daemon"], route_class=JsonRoute)

    @router.post("")
    async def add(body: TokenBody) -> Response:
        """Make a token; `secret` is told this once."""
        made, secret = await asyncio.to_thread(lambda: tokens.add(**body.model_dump()))
        return json_response({**_shown(made), "secret": secret})

    @router.get("")
    async def listing() -> Response:
        """All tokens, without their secrets."""
        found = await asyncio.to_thread(tokens.all)
        return json_response({"tokens": [_shown(token) for token in found]})

    @router.delete("/{name}")
    async def remove(name: str) -> Response:
        """Revoke a token."""
        return json_response({"removed": _shown(await asyncio.to_thread(tokens.remove, name))})

    return router


def _shown(token: Token) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(token)
    del fields["digest"]
    return fields
