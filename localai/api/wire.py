"""What all dialects share at the edge: strict bodies, streams, keep-alive while silent, and who has gone away."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from localai.api.error_shapes import error_body
from localai.energy.figures import Energy
from localai.errors import BadRequest, LocalaiError
from localai.messages import Recalled, Started, Timings, TurnEvent, Waiting

Translate = Callable[[TurnEvent], bytes]
"""A dialect's view of one event, b'' where it has nothing to say about it."""
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode

KEEP_ALIVE_S = 10.0
"""Seconds of silence after which a comment is sent: clients and proxies drop lines that stay silent longer."""
GRACE_S = 2.0
"""Seconds to wait for the first words before the status is sent."""
STALL_S = 60.0
"""Seconds that a client may take nothing of what was sent; then it counts as gone, and its work ends."""

_DEEPEST = 128

DONE = b"data: [DONE]\n\n"


def data(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(payload) + b"\n\n"


def line(payload: Any) -> bytes:
    """One line of NDJSON."""
    return _encode(payload) + b"\n"


def comment(stage: str, fraction: float | None = None) -> bytes:
    """A line that clients ignore and that keeps the connection alive; says what is being waited for."""
    return f": {stage}{'' if fraction is None else f' {fraction:.2f}'}\n\n".encode()


class Frames:
    """How a stream is framed: here OpenAI's way, as server-sent events that end in [DONE]. A dialect overrides it."""

    media_type = "text/event-stream"
    end = DONE

    def alive(self, stage: str, fraction: float | None = None) -> bytes:
        """What keeps a silent line open, and means nothing."""
        return comment(stage, fraction)

    def failed(self, error: LocalaiError) -> bytes:
        """An error after the start."""
        return data(error_body(error))


class NdjsonFrames(Frames):
    """One JSON object per line. Silence is bridged by a space, which may stand before any JSON value."""

    media_type = "application/x-ndjson"
    end = b""

    def alive(self, stage: str, fraction: float | None = None) -> bytes:
        return b" "

    def failed(self, error: LocalaiError) -> bytes:
        return line(error_body(error, "/api/"))


_SSE = Frames()


def error_response(error: LocalaiError, path: str) -> JSONResponse:
    """The error with its status, in the shape of the dialect of `path`; Retry-After where a retry makes sense."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(error_body(error, path), error.status, headers)


def json_response(payload: Any, energy: Energy | None = None) -> Response:
    """A whole answer; `energy` is told in its headers too."""
    return Response(_encode(payload), media_type="application/json", headers=energy.headers() if energy else None)


class JsonRoute(APIRoute):
    """A route whose body is JSON whatever it is called, and read strictly: no NaN, no half characters, not too deep.

    `curl -d` calls all bodies forms, and some clients name no type; their Origin keeps web pages out, not this.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handler(JsonRequest(scope, request.receive))

        return handle


class JsonRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        return read_json(await self.body())


_ENDLESS = re.compile(rb'"([a-z_]{1,64})"\s*:\s*(-?(?:NaN|Infinity)|-?[0-9.]+[eE]\+?(?:[3-9][0-9]{2}|[0-9]{4,9}))')
"""What other languages write for numbers without an end, and numbers that only end beyond 64 bits."""
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\xed[\xa0-\xbf]"
)
"""Half of a character, as an escape or as bytes: what a reader of JSON takes for many other mistakes."""


def read_json(body: bytes) -> Any:
    """The value of a body. Raises BadRequest."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if found := _ENDLESS.search(body):
            name, number = (part.decode() for part in found.groups())
            kind = "positive finite number" if name == "max_joules" else "finite number"
            hint = f"leave {name} out where there is none to send"
            raise BadRequest(f"{name} must be a {kind}, which {number} is not", hint, param=name) from error
        if _HALF.search(body):
            hint = "decode the text's bytes again with the right encoding"
            raise BadRequest("a text in the body is broken Unicode: a lone surrogate", hint) from error
        raise BadRequest(f"the body is no JSON: {error}", "send JSON in UTF-8") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise BadRequest(f"the body is nested more than {_DEEPEST} levels deep", "make it flatter")


def _children(value: Any) -> list[Any]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in found if isinstance(child, dict | list)]


class ClientGone(Exception):
    """The client closed its connection before the answer was ready; nobody is left to be told."""


async def gather(events: AsyncGenerator[TurnEvent, None], request: Request) -> list[TurnEvent]:
    """All events of an answer that is sent in one piece; the work is cancelled when the client goes away."""
    return await _unless_gone(_collect(events), request)


async def gather_all(answers: Sequence[AsyncGenerator[TurnEvent, None]], request: Request) -> list[list[TurnEvent]]:
    """The same for several answers at once, which the engine batches into shared steps; the first error ends all."""

    async def collect_all() -> list[list[TurnEvent]]:
        collecting = [asyncio.ensure_future(_collect(events)) for events in answers]
        try:
            return await asyncio.gather(*collecting)
        finally:
            await _cancel(*collecting)

    return await _unless_gone(collect_all(), request)


async def _collect(events: AsyncGenerator[TurnEvent, None]) -> list[TurnEvent]:
    async with aclosing(events):
        return [event async for event in events if not isinstance(event, Waiting)]


async def _unless_gone(answering: Coroutine[Any, Any, T], request: Request) -> T:
    work = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        await _cancel(work, gone)


async def stream(events: AsyncGenerator[TurnEvent, None], translate: Translate, frames: Frames = _SSE) -> EventStream:
    """Answer with one frame after the other.

    The first words are awaited for a moment, so that a request which fails at once still gets its true status.
    """
    head: list[TurnEvent] = []

    async def first() -> None:
        async for event in events:
            head.append(event)
            if not isinstance(event, Waiting | Started | Recalled):
                return

    opening = asyncio.ensure_future(first())
    try:
        await asyncio.wait({opening}, timeout=GRACE_S)
    except asyncio.CancelledError:
        await _cancel(opening)
        await events.aclose()
        raise
    if opening.done() and opening.exception() is not None:
        await events.aclose()
        opening.result()
    return EventStream(head, opening, events, translate, frames)


class EventStream(Response):
    """An ASGI response that sends each event as it comes and a comment after each long silence.

    A client that goes away closes the events, which cancels the job. An error after the start becomes an event.
    """

    def __init__(
        self,
        head: list[TurnEvent],
        opening: asyncio.Future[None],
        events: AsyncGenerator[TurnEvent, None],
        translate: Translate,
        frames: Frames,
        stall_s: float = STALL_S,
    ) -> None:
        self._stall_s = stall_s
        self.media_type = frames.media_type
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache"})
        self._head = head
        self._opening = opening
        self._events = events
        self._translate = translate
        self._frames = frames
        self._last = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        work = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        silence = asyncio.ensure_future(self._fill_silence(send))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not _stalled(work):
                work.result()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _cancel(work, gone, silence)

    async def _send(self, send: Send, body: bytes) -> None:
        self._last = time.monotonic()
        try:
            async with asyncio.timeout(self._stall_s):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError as error:
            raise ClientGone from error

    async def _pump(self, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await self._open(send)
                async for event in self._events:
                    body = self._translate(event)
                    if body:
                        await self._send(send, body)
        except LocalaiError as error:
            await self._send(send, self._frames.failed(error))
        if self._frames.end:
            await self._send(send, self._frames.end)

    async def _open(self, send: Send) -> None:
        """Send what came in the moment of waiting; if nothing was said yet, say what is being waited for."""
        sent = 0
        try:
            while not self._opening.done():
                # More may arrive while these are being sent.
                fresh = self._head[sent:]
                sent += len(fresh)
                for event in fresh:
                    await self._send(send, self._translate(event) or self._frames.alive("waiting"))
                await asyncio.wait({self._opening}, timeout=1.0)
            self._opening.result()
        finally:
            await _cancel(self._opening)
        body = b"".join(self._translate(event) for event in self._head[sent:])
        if body:
            await self._send(send, body)

    async def _fill_silence(self, send: Send) -> None:
        while True:
            wait = KEEP_ALIVE_S - (time.monotonic() - self._last)
            if wait <= 0:
                await self._send(send, self._frames.alive("working"))
            else:
                await asyncio.sleep(wait)


def _stalled(work: asyncio.Future[None]) -> bool:
    return not work.cancelled() and isinstance(work.exception(), ClientGone)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    """Cancel and wait until each has really ended, so that its cleanup is done too."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def waiting_comment(event: Waiting) -> bytes:
    name = "loading" if event.stage in ("weights", "context", "self-test") else event.stage
    return comment(name, event.fraction)


def now() -> int:
    return int(time.time())


def timings_json(timings: Timings, prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """Our timings, and llama-server's names for the same figures."""
    ours = {name: getattr(timings, name) for name in Timings.__dataclass_fields__}
    return ours | {
        "cache_n": cached,
        "prompt_n": prompt - cached,
        "prompt_ms": timings.prefill_ms,
        "prompt_per_second": timings.prefill_tps,
        "predicted_n": completion,
        "predicted_ms": timings.decode_ms,
        "predicted_per_second": timings.decode_tps,
    }
