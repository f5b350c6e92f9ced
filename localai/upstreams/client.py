"""HTTP to one upstream: a streamed answer as JSON chunks, or one JSON document; what goes wrong, as our errors.

Everything that arrives is bounded, no redirect is followed, and neither key nor address gets into a message. It knows
the protocol's frames, not what they mean. Importing this loads httpx2.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from localai.errors import BadRequest, LocalaiError, NotFound, TooBusy, TooLarge, Unavailable, UpstreamFailed
from localai.exchange import error_of
from localai.sse import SseParser
from localai.upstreams.spec import UpstreamSpec

CONNECT_S = 5.0
MOST_DOCUMENT = 16 * 2**20
MOST_EVENT = 2**20
MOST_STREAM = 256 * 2**20
MOST_ERROR = 64 * 2**10
_WORDS = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

Json = dict[str, Any]


class UpstreamClient:
    """Connections to the one upstream that `spec` describes; `close` at the end. Belongs to one asyncio loop."""

    def __init__(self, spec: UpstreamSpec) -> None:
        self._spec = spec
        self._http = httpx2.AsyncClient(
            # The system's certificates; loading them takes a while, which plain HTTP is spared.
            verify=ssl.create_default_context() if spec.url.startswith("https:") else False,
            timeout=httpx2.Timeout(spec.timeout, connect=min(CONNECT_S, spec.timeout)),
            # A proxy from the environment would see prompts that were meant for this upstream alone.
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def chunks(self, path: str, body: Json, key: str) -> AsyncGenerator[Json | None, None]:
        """The JSON of each event of a streamed answer, None for a sign of life.

        Ends with the stream's own end mark, or where the connection ends. Raises LocalaiError.
        """
        async with self._response("POST", path, body, key) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "text/event-stream":
                raise self._failed(f"answers with {_clean(kind) or 'no type'} instead of a stream of events")
            async with aclosing(self._events(response)) as events:
                async for event in events:
                    yield event

    async def document(self, method: str, path: str, key: str, body: Json | None = None) -> Any:
        """One JSON answer. Raises LocalaiError."""
        async with self._response(method, path, body, key) as response:
            return self._parse(await self._all(response, MOST_DOCUMENT))

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[Json | None, None]:
        parser, total, pending = SseParser(), 0, 0
        async for piece in response.aiter_raw():
            total, pending = total + len(piece), pending + len(piece)
            found = parser.feed(piece)
            pending = len(piece) if found else pending
            if pending > MOST_EVENT or total > MOST_STREAM:
                raise self._failed("sends more than an answer can be")
            for event in found:
                if event.data is None:
                    yield None
                elif event.data.strip() == "[DONE]":
                    return
                else:
                    yield self._chunk(event.data)

    def _chunk(self, text: str) -> Json:
        chunk = self._parse(text.encode())
        if not isinstance(chunk, dict):
            raise self._failed("sends an event that is no JSON object")
        if chunk.get("error"):
            raise self._described(200, chunk)
        return chunk

    def _parse(self, content: bytes) -> Any:
        try:
            return json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise self._failed("sends something that is no JSON") from error

    @asynccontextmanager
    async def _response(self, method: str, path: str, body: Json | None, key: str) -> AsyncIterator[httpx2.Response]:
        """An answer with a good status, its body unread."""
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers |= {} if content is None else {"Content-Type": "application/json"}
        try:
            async with self._http.stream(
                method, f"{self._spec.root}{path}", content=content, headers=headers
            ) as response:
                await self._check(response)
                yield response
        except httpx2.TimeoutException as error:
            raise self._silent(error) from error
        except (httpx2.HTTPError, httpx2.StreamError, ssl.SSLError, OSError) as error:
            raise self._broken(error) from error

    async def _check(self, response: httpx2.Response) -> None:
        # Unpacking could turn a small answer into an endless one, and was not asked for.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise self._failed("compresses its answer, which was not asked for")
        if 300 <= response.status_code < 400:
            target = urlsplit(response.headers.get("location", "")).netloc or self._spec.host
            raise self._failed(
                f"redirects to {_clean(target)}, and redirects are not followed",
                "if that is right, write the final address into models.toml",
            )
        if response.status_code != 200:
            raise self._refused(response, await self._all(response, MOST_ERROR))

    async def _all(self, response: httpx2.Response, most: int) -> bytes:
        parts, size = [], 0
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > most:
                raise self._failed("sends more than an answer can be")
            parts.append(piece)
        return b"".join(parts)

    # -- what went wrong

    def _failed(self, what: str, hint: str = "") -> UpstreamFailed:
        return UpstreamFailed(
            f"the upstream {self._spec.name!r} {what}", hint or "`localai doctor` looks at it; check its own log"
        )

    def _silent(self, error: httpx2.TimeoutException) -> UpstreamFailed:
        if isinstance(error, httpx2.ConnectTimeout):
            return self._failed(f"took no connection within {CONNECT_S:g} s", "is that machine on?")
        return self._failed(f"was silent for {self._spec.timeout:g} s", "raise its timeout in models.toml")

    def _broken(self, error: Exception) -> UpstreamFailed:
        if isinstance(error, httpx2.ConnectError):
            return self._failed(f"cannot be reached ({_reason(error)})", "is that machine on, and its server started?")
        if isinstance(error, httpx2.LocalProtocolError):
            return self._failed("cannot be asked: the request is no valid HTTP", "check its entry in models.toml")
        return self._failed("broke off the connection", "ask again")

    def _refused(self, response: httpx2.Response, content: bytes) -> LocalaiError:
        status = response.status_code
        if status in (401, 403):
            hint = "check its key" if self._spec.key_source else "it wants a key: set api_key_env in models.toml"
            return self._failed(f"refuses us (status {status})", hint)
        try:
            described = json.loads(content)
        except (ValueError, RecursionError):
            described = None
        error = self._described(status, described)
        if isinstance(error, TooBusy | Unavailable):
            after = response.headers.get("retry-after", "")
            error.retry_after = min(int(after), 3600) if after.isascii() and after.isdigit() else error.retry_after
        return error

    def _described(self, status: int, body: Any) -> LocalaiError:
        """An error by its status and by what the body says; 200 where it came in the middle of a stream."""
        found = body.get("error", body) if isinstance(body, dict) else None
        described = found if isinstance(found, dict) else {"message": found} if isinstance(found, str) else {}
        said = _clean(str(described.get("message") or described.get("detail") or ""))
        what = f"the upstream {self._spec.name!r} says: {said}" if said else f"{self._spec.name!r} answers {status}"
        hint = _clean(str(described.get("hint") or ""))
        code = error_of({"message": "", "code": described.get("code")})
        if status == 404:
            return NotFound(what, hint or "check the model's name, and the url in models.toml", param="model")
        if status == 413:
            return TooLarge(what, hint)
        if status == 429 or (status == 200 and isinstance(code, TooBusy)):
            return TooBusy(what, hint or "try again later")
        if status == 503 or (status == 200 and isinstance(code, Unavailable)):
            return Unavailable(what, hint or "try again later")
        if 400 <= status < 500 or (status == 200 and isinstance(code, BadRequest)):
            return BadRequest(what, hint)
        return UpstreamFailed(what, hint or "`localai doctor` looks at it; check its own log")


def _reason(error: Exception) -> str:
    """The system's own words for why a connection failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {_clean(cause.verify_message)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {_clean(cause.reason or 'it failed')}"
        if isinstance(cause, OSError) and cause.strerror:
            return _clean(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return "no connection"


def _clean(text: str) -> str:
    """Another machine's words, fit for one line of ours."""
    plain = _CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).strip()
    return plain if len(plain) <= _WORDS else plain[: _WORDS - 1] + "…"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


async def listed(client: UpstreamClient, key: str, seconds: float) -> dict[str, int | None]:
    """The upstream's models, each with the context that it says it serves. Raises LocalaiError."""
    try:
        async with asyncio.timeout(seconds):
            answer = await client.document("GET", "/models", key)
    except TimeoutError as error:
        raise UpstreamFailed(f"it did not list its models within {seconds:g} s", "is that machine on?") from error
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise UpstreamFailed("its list of models cannot be read", "is it an OpenAI-compatible server?")
    names = {row["id"]: _context(row) for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
    return {name: context for name, context in names.items() if name and len(name) <= 256 and name.isprintable()}


def _context(row: Json) -> int | None:
    """The names under which servers tell it: ours, vLLM's."""
    found = row.get("context_length") or row.get("max_model_len")
    return found if isinstance(found, int) and 0 < found < 2**31 else None
