"""What all dialects share at the edge: server-sent events, keep-alive while silent, errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from localai.energy.figures import Energy
from localai.errors import BadRequest, LocalaiError
from localai.messages import Recalled, Started, Timings, TurnEvent, Waiting

Translate = Callable[[TurnEvent], bytes]
"""A dialect's view of one event, b'' where it has nothing to say about it."""
_encode = msgspec.json.Encoder().encode

KEEP_ALIVE_S = 10.0
"""Seconds of silence after which a comment is sent: clients and proxies drop lines that stay silent longer."""
GRACE_S = 2.0
"""Seconds to wait for the first words before the status is sent."""

_DEEPEST = 128

DONE = b"data: [DONE]\n\n"


def data(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(payload) + b"\n\n"


def comment(stage: str, fraction: float | None = None) -> bytes:
    """A line that clients ignore and that keeps the connection alive; says what is being waited for."""
    return f": {stage}{'' if fraction is None else f' {fraction:.2f}'}\n\n".encode()


def error_body(error: LocalaiError) -> dict[str, Any]:
    """OpenAI's error shape, with the hint beside the message and, for a long prompt, both numbers."""
    body: dict[str, Any] = {
        "message": f"{error.message}. {error.hint}" if error.hint else error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "hint": error.hint,
    }
    for extra in ("prompt_tokens", "context"):
        if hasattr(error, extra):
            body[{"prompt_tokens": "n_prompt_tokens", "context": "n_ctx"}[extra]] = getattr(error, extra)
    return {"error": body}


def error_response(error: LocalaiError) -> JSONResponse:
    """The error with its status, and Retry-After where a retry makes sense."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(error_body(error), error.status, headers)


def json_response(payload: Any, energy: Energy | None = None) -> Response:
    """A whole answer; `energy` is told in its headers too."""
    return Response(_encode(payload), media_type="application/json", headers=energy.headers() if energy else None)


class JsonRoute(APIRoute):
    """A route whose body is read strictly: no NaN, no half characters, nothing nested beyond reason."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            value = msgspec.json.decode(await self.body())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
    return (await gather_all([events], request))[0]


async def gather_all(answers: Sequence[AsyncGenerator[TurnEvent, None]], request: Request) -> list[list[TurnEvent]]:
    """The same for several answers at once, which the engine batches into shared steps; the first error ends all."""

    async def collect(events: AsyncGenerator[TurnEvent, None]) -> list[TurnEvent]:
        async with aclosing(events):
            return [event async for event in events if not isinstance(event, Waiting)]

    async def collect_all() -> list[list[TurnEvent]]:
        collecting = [asyncio.ensure_future(collect(events)) for events in answers]
        try:
            return await asyncio.gather(*collecting)
        finally:
            await _cancel(*collecting)

    work = asyncio.ensure_future(collect_all())
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        await _cancel(work, gone)


async def stream(events: AsyncGenerator[TurnEvent, None], translate: Translate) -> Response:
    """Answer with server-sent events.

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
    return EventStream(head, opening, events, translate)


class EventStream(Response):
    """An ASGI response that sends each event as it comes and a comment after each long silence.

    A client that goes away closes the events, which cancels the job. An error after the start becomes an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        head: list[TurnEvent],
        opening: asyncio.Future[None],
        events: AsyncGenerator[TurnEvent, None],
        translate: Translate,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache"})
        self._head = head
        self._opening = opening
        self._events = events
        self._translate = translate
        self._last = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        work = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        silence = asyncio.ensure_future(self._fill_silence(send))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _cancel(work, gone, silence)

    async def _send(self, send: Send, body: bytes) -> None:
        self._last = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _pump(self, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await self._open(send)
                async for event in self._events:
                    body = self._translate(event)
                    if body:
                        await self._send(send, body)
        except LocalaiError as error:
            await self._send(send, data(error_body(error)))
        await self._send(send, DONE)

    async def _open(self, send: Send) -> None:
        """Send what came in the moment of waiting; if nothing was said yet, say what is being waited for."""
        sent = 0
        try:
            while not self._opening.done():
                # More may arrive while these are being sent.
                fresh = self._head[sent:]
                sent += len(fresh)
                for event in fresh:
                    await self._send(send, self._translate(event) or comment("waiting"))
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
                await self._send(send, comment("working"))
            else:
                await asyncio.sleep(wait)


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
