"""Ollama's dialect of changing what models there are: pull, create, copy, delete. For this user's own socket.

Pulling what is here already changes nothing, so that is answered on any way in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from localai.api.caller import refuse_strangers
from localai.api.error_shapes import ollama
from localai.api.ollama_in import OptionsBody, library_name
from localai.api.openai_in import ModelName
from localai.api.wire import JsonRoute, json_response, line
from localai.errors import BadRequest, LocalaiError, NotFound
from localai.imports import create_preset, remove
from localai.library import Library
from localai.presets import Preset
from localai.pull import Puller
from localai.router import meant
from localai.transfer import PullProgress
from localai.turn import Parts

_Show = Callable[[dict[str, Any]], None]


class NamedBody(BaseModel):
    model: ModelName = Field("", validation_alias=AliasChoices("model", "name"))
    stream: bool | None = None


class CopyBody(BaseModel):
    source: ModelName
    destination: ModelName


class CreateBody(NamedBody):
    """POST /api/create: another model with a system prompt and settings."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    from_: ModelName = Field("", validation_alias=AliasChoices("from", "from_"))
    system: str | None = None
    parameters: OptionsBody | None = None
    template: str | None = None
    messages: list[Any] | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    quantize: str | None = None


def routes(parts: Parts) -> APIRouter:
    """The routes over one daemon's parts."""
    router = APIRouter(prefix="/api", tags=["Ollama"], route_class=JsonRoute)
    library = parts.library

    @router.post("/pull")
    async def pull(body: NamedBody, request: Request) -> Response:
        """Bring a model here; a line per piece of progress."""
        name = library_name(body.model)
        here = await asyncio.to_thread(_here, library, name)
        if not here:
            # In Ollama's dialect even this is an answer of success with an error in it, where it streams.
            refuse_strangers(request, f"pulling {name}")
        work = _nothing if here else pulling(library, name)
        return await _report(work, body.stream is not False)

    @router.post("/create")
    async def create(body: CreateBody, request: Request) -> Response:
        """Give another model a name, a system prompt and settings of its own."""
        refuse_strangers(request, "creating a model")
        preset, name, base = _preset(body), library_name(body.model), meant(library_name(body.from_), parts.config)

        def work(show: _Show, _: threading.Event) -> None:
            show({"status": f"using {base}"})
            create_preset(library, name, base, preset)

        return await _report(work, body.stream is not False)

    @router.post("/copy")
    async def copy(body: CopyBody, request: Request) -> Response:
        """Give a model another name; its weights stay where they are."""
        refuse_strangers(request, "copying a model")
        names = library_name(body.destination), meant(library_name(body.source), parts.config)
        await asyncio.to_thread(create_preset, library, *names, Preset())
        return Response(status_code=200)

    @router.delete("/delete")
    async def delete(body: NamedBody, request: Request) -> Response:
        """Delete a model of ours; what belongs to another program is refused."""
        refuse_strangers(request, "deleting a model")
        model = await asyncio.to_thread(library.known, library_name(body.model), files=False)
        if model.base is None:
            await parts.pool.unload(model.id)
        await asyncio.to_thread(remove, library, model.id)
        return Response(status_code=200)

    return router


def _here(library: Library, name: str) -> bool:
    try:
        return library.known(name, files=False).problem is None
    except NotFound:
        return False


def _nothing(_: _Show, __: threading.Event) -> None:
    return


def pulling(library: Library, name: str) -> Callable[[_Show, threading.Event], None]:
    """The work of bringing a model here."""

    def work(show: _Show, cancel: threading.Event) -> None:
        def tell(at: PullProgress) -> None:
            show({"status": f"{at.stage} {at.file}", "digest": at.file, "total": at.total, "completed": at.done})

        show({"status": "pulling manifest"})
        Puller(library).pull(name, tell, cancel)

    return work


def _preset(body: CreateBody) -> Preset:
    refused = ("template", "messages", "files", "adapters", "quantize")
    given = [name for name in refused if getattr(body, name)]
    if given:
        raise BadRequest(
            f"a model cannot be created with `{given[0]}` here",
            "send `from`, `system` and `parameters`; `localai models import` takes files",
            param=given[0],
        )
    if not body.from_:
        raise BadRequest("`from` is missing", "name the model to build on", param="from")
    fields = (body.parameters or OptionsBody.model_validate({})).fields()
    return Preset(
        system=body.system,
        sampling={key: value for key, value in fields["sampling"].items() if isinstance(value, int | float)},
        stop=fields["stop"],
        n_ctx=fields["n_ctx"] or None,
        max_tokens=fields["max_tokens"],
    )


async def _report(work: Callable[[_Show, threading.Event], None], streamed: bool) -> Response:
    """Do `work` in a thread; its statuses as lines, `success` last. Once lines were sent, an error is one of them."""
    if not streamed:
        await asyncio.to_thread(work, lambda _: None, threading.Event())
        return json_response({"status": "success"})
    return StreamingResponse(progress(work), media_type="application/x-ndjson")


async def progress(
    work: Callable[[_Show, threading.Event], None],
    frame: Callable[[Any], bytes] = line,
    described: Callable[[LocalaiError], dict[str, Any]] = ollama,
) -> AsyncIterator[bytes]:
    """Do `work` in a thread, and frame each status that it shows; an error is described in the last one."""
    loop, cancel = asyncio.get_running_loop(), threading.Event()
    shown: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def tell(status: dict[str, Any] | None) -> None:
        loop.call_soon_threadsafe(shown.put_nowait, status)

    def run() -> None:
        try:
            work(tell, cancel)
            tell({"status": "success"})
        except LocalaiError as error:
            tell(described(error))
        finally:
            tell(None)

    working = asyncio.create_task(asyncio.to_thread(run))
    try:
        while (status := await shown.get()) is not None:
            yield frame(status)
        await working
    finally:
        # A client that went away stops a download; what has arrived is kept.
        cancel.set()
