"""An OpenAI-compatible server on loopback that misbehaves as the model's name says, and counts what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD = "HTTP/1.1 {} X\r\nContent-Type: {}\r\nConnection: close\r\n{}\r\n"


def chunk(text: str | None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    )


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
WORDS = chunk("one ") + chunk("two ")
STREAMS = {
    "good": ROLE + WORDS + chunk(None, "stop") + DONE,
    "empty": b"",
    "role-only": ROLE,
    "half": ROLE + WORDS,
    "not-json": b"data: {nonsense\n\n" + DONE,
    "nan": b'data: {"choices": NaN}\n\n' + DONE,
    "no-choices": b"data: {}\n\n" + DONE,
    "alien-index": b'data: {"choices":[{"index":7,"delta":{"content":"x"}}]}\n\n' + DONE,
    "number-as-text": b'data: {"choices":[{"index":0,"delta":{"content":5}}]}\n\n' + DONE,
    "error-inside": b'data: {"error":{"message":"the GPU\\u001b[31m is gone"}}\n\n' + DONE,
    "late-error": ROLE + WORDS + b'data: {"error":{"message":"the GPU is gone"}}\n\n',
    "endless-line": b"data: " + b"x" * (5 * 2**20),
}
STATUSES = {
    "status-500": (500, b'{"error":{"message":"no memory"}}', ""),
    "status-503": (503, b"{}", "Retry-After: 7\r\n"),
    "status-429": (429, b'{"error":{"message":"slow down"}}', "Retry-After: 9\r\n"),
    "status-401": (401, b'{"error":{"message":"who are you"}}', ""),
    "status-400": (400, b'{"error":{"message":"top_k is unknown"}}', ""),
    "status-404": (404, b'{"error":{"message":"no such model"}}', ""),
    "huge-error": (500, b"x" * 2**20, ""),
    "redirect": (307, b"", "Location: http://elsewhere.invalid/v1/chat/completions\r\n"),
    "plain-json": (200, b'{"choices":[]}', ""),
}


@dataclass(slots=True)
class Broken:
    """What the server saw: paths, headers in lower case, bodies; `gone` counts clients that left before the end."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    gone: int = 0
    healthy: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.paths.append(lines[0].split()[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self.headers.append(headers)
        if lines[0].startswith("GET"):
            status, body = (200, b'{"data":[{"id":"good","max_model_len":2048}]}') if self.healthy else (500, b"{}")
            writer.write(HEAD.format(status, "application/json", "").encode() + body)
            return
        self.bodies.append(json.loads(await reader.readexactly(int(headers["content-length"]))))
        await self._misbehave(self.bodies[-1]["model"], reader, writer)

    async def _misbehave(self, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if model in STATUSES:
            status, body, extra = STATUSES[model]
            writer.write(HEAD.format(status, "application/json", extra).encode() + body)
            return
        extra = "Content-Encoding: gzip\r\n" if model == "packed" else ""
        writer.write(HEAD.format(200, "text/event-stream", extra).encode() + STREAMS.get(model, b""))
        if model == "endless":
            while True:
                writer.write(chunk("and "))
                await writer.drain()
                await asyncio.sleep(0.02)
        if model == "silent":
            # Nothing more is said; the client is the one to leave.
            await reader.read()
            raise ConnectionResetError


@contextmanager
def broken_upstream() -> Iterator[Broken]:
    """The server, in a thread of its own."""
    state, started = Broken(), threading.Event()
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        ending = asyncio.Event()
        server = await asyncio.start_server(state.serve, "127.0.0.1", 0)
        state.port = server.sockets[0].getsockname()[1]
        handles.append((asyncio.get_running_loop(), ending))
        started.set()
        await ending.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(60)
    try:
        yield state
    finally:
        loop, ending = handles[0]
        loop.call_soon_threadsafe(ending.set)
        thread.join(60)
