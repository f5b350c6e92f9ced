"""Files and folders for the memory over HTTP, on the Unix socket: paths are those of this user's own machine."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.errors import BadRequest
from localai.watched import WatchedFolders
from memory_store.records import DEFAULT_NAMESPACE

Name = Annotated[str, Field(max_length=4096)]


class FilesBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    paths: list[Name] = Field(max_length=100)
    namespace: Name = DEFAULT_NAMESPACE


class FolderBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    folder: Name
    namespace: Name = DEFAULT_NAMESPACE


def routes(watched: WatchedFolders) -> APIRouter:
    """The routes under /localai/memory/files and /localai/memory/watch."""
    router = APIRouter(prefix="/localai/memory", tags=["memory"], route_class=JsonRoute)

    @router.post("/files")
    async def put(body: FilesBody) -> Response:
        """Read documents into the memory; what became of each."""
        paths = [_absolute(path) for path in body.paths]
        done = await asyncio.to_thread(watched.put, paths, body.namespace)
        return json_response({"files": [asdict(one) for one in done]})

    @router.get("/watch")
    async def listing() -> Response:
        """The folders that are followed, with what came of it since the start."""
        return json_response({"watched": await asyncio.to_thread(watched.followed)})

    @router.post("/watch")
    async def watch(body: FolderBody) -> Response:
        """Follow a folder: its documents are remembered, and forgotten when they go."""
        await asyncio.to_thread(watched.add, _absolute(body.folder), body.namespace)
        return json_response({"watched": await asyncio.to_thread(watched.followed)})

    @router.post("/watch/gone")
    async def gone(body: FolderBody) -> Response:
        """The files that this folder lacks are gone, and no disk is missing: what they said is removed."""
        await asyncio.to_thread(watched.confirm, _absolute(body.folder))
        return json_response({"watched": await asyncio.to_thread(watched.followed)})

    @router.post("/unwatch")
    async def unwatch(body: FolderBody) -> Response:
        """Follow a folder no more; what it said stays."""
        await asyncio.to_thread(watched.remove, _absolute(body.folder))
        return json_response({"watched": await asyncio.to_thread(watched.followed)})

    return router


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise BadRequest(f"{text!r} is no absolute path", "give the whole path", param="paths")
    return path
