"""The client against real servers on a Unix socket and on loopback: JSON, streams cut anywhere, cancelling, errors."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localai.client import Client, ServerEvent
from localai.errors import (
    BadRequest,
    ConfigError,
    ContextExceeded,
    DaemonUnreachable,
    DeadlinePassed,
    EngineFailed,
    LocalaiError,
    UnknownModel,
)
from localai.sse import SseEvent, SseParser
from tests.daemon_fixture import free_port

SSE = b': loading 0.4\n\ndata: {"text": "caf\xc3\xa9"}\r\n\r\ndata: {"n":\ndata: 1}\n\ndata: [DONE]\n\n'
EVENTS = [ServerEvent(comment="loading 0.4"), ServerEvent(data={"text": "café"}), ServerEvent(data={"n": 1})]


class Handler(BaseHTTPRequestHandler):
    """`GET /echo` and friends answer with what they got; `POST /stream` plays the pieces that the body names."""

    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "local"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = {"method": self.command, "body": json.loads(body or b"null"), "token": self.headers["Authorization"]}
        status, content = self.server.answers.get(self.path, (200, json.dumps(seen).encode()))
        if self.path == "/silent":
            self.server.released.wait(60)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = do_DELETE = _answer  # noqa: N815

    def do_POST(self) -> None:
        if not self.path.startswith("/stream"):
            return self._answer()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):
            self._play()
        self.server.released.set()
        self.close_connection = True

    def _play(self) -> None:
        for piece in self.server.pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if self.path == "/stream/hang":
            # A read that ends is the client's going away.
            self.connection.recv(1)
        elif self.path != "/stream/cut":
            self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: Any) -> None:
        if isinstance(address, str):
            self.address_family = socket.AF_UNIX
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.pieces: list[bytes] = []
        self.released = threading.Event()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # The HTTP server's own asks for a host name, which a Unix socket has not.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        return connection, address or ("local", 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path is limited to about 100 bytes, which pytest's own folders can exceed.
    path = Path(tempfile.mkdtemp(prefix="la", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["unix", "tcp"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    serving = Server(str(folder / "s") if request.param == "unix" else ("127.0.0.1", 0))
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.released.set()
    serving.shutdown()
    thread.join()
    serving.server_close()


def connect(server: Server, folder: Path, token: str | None = None) -> Client:
    if server.address_family == socket.AF_UNIX:
        return Client(folder / "s", token=token)
    return Client(base_url=f"http://127.0.0.1:{server.server_address[1]}", token=token)


@pytest.fixture
def client(server: Server, folder: Path) -> Iterator[Client]:
    made = connect(server, folder)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("call", "method", "body"),
    [
        (lambda c: c.get("/echo"), "GET", None),
        (lambda c: c.post("/echo", {"a": "é"}), "POST", {"a": "é"}),
        (lambda c: c.patch("/echo", {"b": 1}), "PATCH", {"b": 1}),
        (lambda c: c.delete("/echo"), "DELETE", None),
    ],
    ids=["get", "post", "patch", "delete"],
)
def test_requests(client: Client, call: Callable[[Client], Any], method: str, body: Any) -> None:
    assert call(client) == {"method": method, "body": body, "token": None}


def test_the_token_is_sent_as_bearer(server: Server, folder: Path) -> None:
    assert connect(server, folder, token="abc").get("/echo")["token"] == "Bearer abc"


@pytest.mark.parametrize("size", [1, 2, 7, len(SSE)])
def test_streams_survive_every_cut(server: Server, client: Client, size: int) -> None:
    server.pieces = [SSE[at : at + size] for at in range(0, len(SSE), size)]
    assert list(client.stream("/stream", {})) == EVENTS


@given(st.lists(st.integers(0, len(SSE)), max_size=12))
def test_the_parser_does_not_depend_on_the_cuts(cuts: list[int]) -> None:
    parser, borders = SseParser(), [0, *sorted(cuts), len(SSE)]
    found = [e for a, b in pairwise(borders) for e in parser.feed(SSE[a:b])]
    assert found == [
        SseEvent(comment="loading 0.4"),
        SseEvent(data='{"text": "café"}'),
        SseEvent(data='{"n":\n1}'),
        SseEvent(data="[DONE]"),
    ]


def test_closing_from_another_thread_ends_a_waiting_stream(server: Server, client: Client) -> None:
    server.pieces = [b'data: {"n": 1}\n\n']
    stream, seen, waiting = client.stream("/stream/hang", {}), [], threading.Event()

    def read() -> None:
        for event in stream:
            seen.append(event.data)
            waiting.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert waiting.wait(60)
    time.sleep(0.02)
    # The server says nothing more, and the stream has no limit of time: only closing ends either.
    stream.close()
    reader.join(60)
    assert not reader.is_alive()
    assert server.released.wait(60)
    assert seen == [{"n": 1}]


def test_leaving_the_loop_early_cancels(server: Server, client: Client) -> None:
    server.pieces = [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n']
    with client.stream("/stream/hang", {}) as stream:
        assert next(iter(stream)).data == {"n": 1}
    assert server.released.wait(60)
    assert list(stream) == []


def test_closing_the_client_ends_everything(server: Server, client: Client) -> None:
    outcome: list[LocalaiError] = []

    def ask() -> None:
        try:
            client.get("/silent", timeout=50)
        except LocalaiError as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.1)
    client.close()
    asking.join(40)
    assert [type(error) for error in outcome] == [DaemonUnreachable]
    with pytest.raises(DaemonUnreachable, match="closed"):
        client.get("/echo")


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, {"code": "model_not_found", "message": "no 'x'. try y", "hint": "try y"}, UnknownModel, "no 'x'"),
        (400, {"code": "context_length_exceeded", "message": "9 > 8"}, ContextExceeded, "9 > 8"),
        (502, {"code": "engine_failed", "message": "died"}, EngineFailed, "died"),
        (418, {"code": "new", "message": "teapot"}, LocalaiError, "teapot"),
    ],
    ids=["model", "context", "engine", "unknown code"],
)
def test_errors_come_back_as_their_class(
    server: Server, client: Client, status: int, body: dict[str, str], kind: type[LocalaiError], text: str
) -> None:
    server.answers["/bad"] = status, json.dumps({"error": body}).encode()
    server.pieces = [b"data: " + json.dumps({"error": body}).encode() + b"\n\n"]
    with pytest.raises(kind) as direct:
        client.get("/bad")
    with pytest.raises(kind) as streamed:
        list(client.stream("/stream", {}))
    assert (direct.value.message, direct.value.hint, direct.value.status) == (text, body.get("hint", ""), status)
    assert streamed.value.message == text


@pytest.mark.parametrize(("status", "body"), [(500, b"oops"), (302, b""), (200, b"<html>"), (200, b"[]")])
def test_another_program_at_the_address_is_named_as_such(
    server: Server, client: Client, status: int, body: bytes
) -> None:
    server.answers["/odd"] = status, body
    with pytest.raises(LocalaiError) as caught:
        client.get("/odd")
    assert "another program" in caught.value.hint


def test_an_answer_that_breaks_off_is_an_error(server: Server, client: Client) -> None:
    server.pieces = [b'data: {"n": 1}\n\n']
    for path in ("/stream/cut", "/stream"):
        stream = iter(client.stream(path, {}))
        assert next(stream).data == {"n": 1}
        with pytest.raises(DaemonUnreachable):
            next(stream)


def test_silence_has_a_limit(client: Client) -> None:
    with pytest.raises(DeadlinePassed, match=r"silent for 0\.1 s"):
        client.get("/silent", timeout=0.1)
    with pytest.raises(DeadlinePassed):
        list(client.stream("/stream/hang", {}, timeout=0.1))


def test_no_daemon(folder: Path) -> None:
    free = free_port()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "stale"))
    for lost in (Client(folder / "none"), Client(folder / "stale"), Client(base_url=f"http://127.0.0.1:{free}")):
        with pytest.raises(DaemonUnreachable, match="not running") as caught:
            lost.get("/health")
        assert "localai start" in caught.value.hint


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "ftp://x", "http://", "http://x:99999", "http://x:a"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(ConfigError, match="no base URL"):
        Client(base_url=url)


def test_one_way_in_is_needed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        Client()
    with pytest.raises(ConfigError, match="not both"):
        Client(folder, base_url="http://x")


def test_importing_is_light() -> None:
    heavy = "{'httpx', 'asyncio', 'numpy', 'msgspec', 'textual'}"
    code = f"import sys, localai.client; print(sorted({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_error_objects_need_only_a_message() -> None:
    from localai.exchange import error_of

    error = error_of({"message": "no", "code": "invalid_request", "param": "top_p"})
    assert (type(error), error.param, error.status) == (BadRequest, "top_p", 400)
