"""The daemon's chat endpoints on loopback with a scripted model, over an actual conversation store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from localai.conversations import Conversations
from localai.errors import LocalaiError, NotFound

TIMINGS = {"ttft_ms": 210.0, "decode_tps": 45.5}
USAGE = {"prompt_tokens": 30, "completion_tokens": 12}


@dataclass
class Script:
    """What the model does next.

    `hold` waits for `released`, or for the client to go: after piece number N, at -1 before the first, at -2 before
    anything is answered.
    """

    pieces: list[str] = field(default_factory=lambda: ["Hello", " there"])
    reasoning: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    hold: int | None = None
    refuse: LocalaiError | None = None
    fail: LocalaiError | None = None
    finish: str = "stop"
    released: threading.Event = field(default_factory=threading.Event)


class ChatServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, store: Conversations, port: int = 0) -> None:
        self.store = store
        self.script = Script()
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def server_close(self) -> None:
        self.script.released.set()
        super().server_close()


@contextmanager
def serving(path: Path, port: int = 0) -> Iterator[ChatServer]:
    """A running server whose conversations are in the file `path`."""
    store = Conversations(path)
    server = ChatServer(store, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.script.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
        store.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size) or b"{}")
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        self.close_connection = True
        with suppress(ConnectionError):
            try:
                if parts[-1] == "reply":
                    self.server.requests.append(body)
                    self._reply(parts[2], body)
                else:
                    self._send(200, self._answer(parts, parse_qs(url.query), body))
            except LocalaiError as error:
                self._send(error.status, {"error": _error(error)})

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _answer(self, parts: list[str], query: dict[str, list[str]], body: dict[str, Any]) -> dict[str, Any]:
        store = self.server.store
        match self.command, parts:
            case "GET", ["health"]:
                return {"status": "ok", "version": "0"}
            case "GET", ["localai", "conversations"]:
                found = store.list(limit=int(query["limit"][0]))
                return {"conversations": [asdict(chat) for chat in found]}
            case "POST", ["localai", "conversations"]:
                return asdict(store.create(**body))
            case "GET", ["localai", "conversations", chat]:
                head = store.get(chat).head
                messages = [asdict(message) for message in store.path(head)] if head else []
                return {**asdict(store.get(chat)), "messages": messages}
        raise NotFound("no such route")

    def _reply(self, chat: str, body: dict[str, Any]) -> None:
        script, store = self.server.script, self.server.store
        parent = body.get("parent", store.get(chat).head)
        user = store.append(chat, parent, "user", body["content"]) if body.get("content") else None
        answer = store.append(chat, user.id if user else parent, "assistant", "")
        if script.refuse:
            store.finish(answer.id, "error")
            raise script.refuse
        self._hold(-2)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._frame({"type": "message", "user": user and asdict(user), "assistant": asdict(answer)})
        try:
            reason = self._speak(answer.id)
        except ConnectionError:
            self.server.gone.set()
            reason = "cancelled"
        store.finish(answer.id, reason, USAGE)

    def _speak(self, answer: str) -> str:
        script = self.server.script
        for comment in script.comments:
            self.wfile.write(f": {comment}\n\n".encode())
        self._hold(-1)
        for piece in script.reasoning:
            self._chunk({"reasoning_content": piece})
            self.server.store.extend(answer, reasoning=piece)
        for number, piece in enumerate(script.pieces):
            self._chunk({"content": piece})
            self.server.store.extend(answer, piece)
            self._hold(number)
        if script.fail:
            self._frame({"error": _error(script.fail)})
            return "error"
        self._chunk({}, finish_reason=script.finish)
        last = {"backend": "llama.cpp", "n_ctx": 2048, "usage": USAGE, "timings": TIMINGS}
        self._frame({"model": "starter", "choices": [], **last})
        self.wfile.write(b"data: [DONE]\n\n")
        return script.finish

    def _hold(self, number: int) -> None:
        if self.server.script.hold != number:
            return
        self.connection.settimeout(0.01)
        while not self.server.script.released.is_set():
            try:
                gone = self.connection.recv(1) == b""
            except TimeoutError:
                continue
            if gone:
                raise ConnectionResetError

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        self._frame({"object": "chat.completion.chunk", "model": "starter", "choices": [choice]})

    def _frame(self, frame: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(frame).encode() + b"\n\n")

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _error(error: LocalaiError) -> dict[str, Any]:
    return {"message": f"{error.message}. {error.hint}", "hint": error.hint, "code": error.code}
