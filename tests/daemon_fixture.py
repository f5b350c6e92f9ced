"""A real daemon in a child process and a home of its own, and the plainest ways to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai.client import Client
from localai.errors import LocalaiError
from localai.exchange import UnixConnection
from localai.sse import SseParser

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> Json:
        found: Json = self.json["error"]
        return found


class Daemon:
    """One home, its port and its process; `start` and `kill` as often as a test likes."""

    def __init__(self, home: Path, port: int, **settings: str) -> None:
        self.home = home
        self.port = port
        self.socket = home / "run" / "localai.sock"
        self.env = {**clean_environment(), "LOCALAI_HOME": str(home), "LOCALAI_PORT": str(port)} | {
            "LOCALAI_CALIBRATE": "0",
            # Threads that wait for each other by spinning hardly move on a machine where others want their cores.
            "LOCALAI_THREADS": "1",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.socket)

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "localai", "serve", "--quiet"]
        self.process = subprocess.Popen(command, env=self.env, cwd="/", stderr=subprocess.DEVNULL)
        wait_for(lambda: answers(self.port) or self.process is None or self.process.poll() is not None, 150)
        if self.process.poll() is None:
            # It listens before it serves: this is answered when all its parts are there.
            assert self.ask("GET", "/health").status == 200

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(90)

    def cli(self, *arguments: str, stdin: str | None = None, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        """Run `localai` with this home. Without `stdin` there is nothing to read."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "localai", *arguments],
            env=self.env,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Json | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        unix: bool = False,
    ) -> Answer:
        """One request over TCP, or the Unix socket."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        with closing(self.connection(unix=unix)) as connection:
            try:
                connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
            except (BrokenPipeError, ConnectionResetError):
                pass  # answered before the body was read to its end
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def connection(self, *, unix: bool = False) -> http.client.HTTPConnection:
        made = UnixConnection(self.socket) if unix else http.client.HTTPConnection("127.0.0.1", self.port)
        made.timeout = 300
        return made

    def chat(self, text: str, *, unix: bool = False, **fields: Any) -> Answer:
        """A short greedy answer."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}
        return self.ask("POST", "/v1/chat/completions", body, unix=unix)

    def rows(self, table: str) -> list[Json]:
        """The ledger's rows, oldest first. They are written behind the answers: wait for what must come."""
        if self.process is not None and self.process.poll() is None:
            # Whoever asks the daemon for them ends the moment in which rows gather.
            with suppress(LocalaiError):
                self.client.get("/localai/queries?limit=1")
        with closing(sqlite3.connect(self.home / "ledger.db")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(f"select * from {table} order by id")]

    def newest(self, table: str) -> Json:
        """The ledger's last row; empty where there is none yet."""
        return next(reversed(self.rows(table)), {})

    def engines(self) -> list[Json]:
        found: list[Json] = self.client.get("/localai/status")["engines"]
        return found

    def echo(self, name: str, step_ms: int) -> str:
        """The model name of an engine that repeats its prompt, a byte per `step_ms`; for the Unix socket only."""
        path = self.home / name
        path.write_text(f"{step_ms}\n")
        return f"echo:{path}"


@contextmanager
def running(**settings: str) -> Iterator[Daemon]:
    """A started daemon in a new home, gone with it at the end."""
    with resting(**settings) as daemon:
        daemon.start()
        yield daemon


@contextmanager
def resting(**settings: str) -> Iterator[Daemon]:
    """One that is not started yet. Short paths: socket addresses are limited."""
    home = Path(tempfile.mkdtemp(prefix="la", dir="/tmp"))
    daemon = Daemon(home, free_port(), **settings)
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        shutil.rmtree(home, ignore_errors=True)


def clean_environment() -> dict[str, str]:
    """Ours without settings that would reach the daemon, and with this checkout in front."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LOCALAI_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[1])}


_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nothing has, given once. No system hands one below 32,768 to whoever connects."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with closing(socket.socket()) as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)) != 0 and _can_bind(port):
                _given.add(port)
                return port


def _can_bind(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """True where something listens on loopback."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of `holds`; fails after `seconds`, which a busy machine needs and no other waits for."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def events_of(content: bytes) -> list[Json]:
    """The JSON events of a whole stream, which must end in [DONE]."""
    found = [event.data for event in SseParser().feed(content) if event.data is not None]
    assert found[-1] == "[DONE]"
    return [json.loads(data) for data in found[:-1]]
