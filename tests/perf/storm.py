"""64 connections at once while the engine is killed at random: what each request came to, and what was left behind.

Some clients read slowly, some go away in the middle, all dialects are used. `python -m tests.perf.storm --seconds 600`
prints counts, the latency of /health beside it, and how memory and open files went. It knows nothing of the machine's
other load but notes it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from localai.orders import N_SEQ
from tests.daemon_fixture import Daemon, running
from tests.perf.load import Meter

_PATIENCE_S = 180.0
_SETTLE_S = 60.0
_DOCUMENTED = (400, 429, 502, 503, 504, 507)
_MIB = 2**20
_POOL, _SPARE_FILES = 12, 8
"""More threads and files than before that are no leak: pools that were not full yet, connections kept open."""
_TEXT = "the quick brown fox jumps over the lazy dog while seven wizards mix potions beside an old river"
_WORDS = _TEXT.split()


@dataclass(slots=True)
class Seen:
    """What came of it all. `faults` has a line for each request that neither answered nor told why."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    kills: int = 0
    daemon_mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


class Storm:
    """One run against one daemon; `seed` makes the requests, not their timing, the same."""

    def __init__(self, daemon: Daemon, model: str, seed: int) -> None:
        assert daemon.process is not None
        self._daemon = daemon
        self._model = model
        self._draw = random.Random(seed)
        self._process = psutil.Process(daemon.process.pid)
        self._over = asyncio.Event()
        self.seen = Seen()

    async def run(self, seconds: float, connections: int, kill_every: float) -> None:
        others = [asyncio.create_task(work) for work in (self._probe(), self._watch(), self._kill(kill_every))]
        clients = [asyncio.create_task(self._client(number)) for number in range(connections)]
        await asyncio.sleep(seconds)
        self._over.set()
        await asyncio.gather(*clients)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _client(self, number: int) -> None:
        """One connection's user: asks, reads in its own way, rests, asks again."""
        draw = random.Random(self._draw.random())
        manner = ("plain", "plain", "plain", "slow", "leaves", "leaves at once", "whole", "whole")[number % 8]
        while not self._over.is_set():
            path, body = self._request(draw, streamed=manner != "whole")
            try:
                end = await asyncio.wait_for(self._ask(path, body, manner, draw), _PATIENCE_S)
            except TimeoutError:
                end = "silence"
            except OSError as error:
                end = f"fault: {type(error).__name__}"
            self.seen.ends[end] += 1
            if end.startswith("fault") or end == "silence":
                self.seen.faults.append(f"{manner} {path}: {end}")
            rest = 1.0 if end.startswith(("429", "503")) else 0.0
            await asyncio.sleep(rest + draw.expovariate(10.0))

    def _request(self, draw: random.Random, *, streamed: bool) -> tuple[str, dict[str, Any]]:
        text = " ".join(draw.choices(_WORDS, k=draw.randint(4, 120)))
        most = draw.randint(1, 48)
        said = [{"role": "user", "content": text}]
        common = {"model": self._model, "stream": streamed}
        choices: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": said, "max_tokens": most}),
            ("/v1/completions", {"prompt": text, "max_tokens": most}),
            ("/v1/messages", {"messages": said, "max_tokens": most}),
            ("/v1/responses", {"input": text, "max_output_tokens": most}),
            ("/api/chat", {"messages": said, "options": {"num_predict": most}}),
            ("/completion", {"prompt": text, "n_predict": most}),
        ]
        path, body = draw.choice(choices)
        return path, body | common

    async def _ask(self, path: str, body: dict[str, Any], manner: str, draw: random.Random) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._daemon.port, limit=2**12)
        try:
            raw = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n\r\n"
            writer.write(head.encode() + raw)
            await writer.drain()
            if manner == "leaves at once":
                await asyncio.sleep(draw.uniform(0, 0.3))
                return "left"
            status = await reader.readline()
            if not status:
                return "fault: closed without an answer"
            code = int(status.split()[1])
            read = b""
            while piece := await reader.read(64 if manner == "slow" else 4096):
                read += piece
                if manner == "slow":
                    await asyncio.sleep(0.05)
                if manner == "leaves" and len(read) > 600:
                    return "left"
            return _end(code, read)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _probe(self) -> None:
        """/health from a process of its own: in this one, 64 clients would be waited for too."""
        command = (sys.executable, "-m", "tests.perf.probe", str(self._daemon.port))
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        try:
            async for row in child.stdout:
                self.seen.health_ms.append(float(row))
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _watch(self) -> None:
        while True:
            self.seen.daemon_mib.append(self._process.memory_info().rss / _MIB)
            self.seen.files.append(self._process.num_fds())
            self.seen.threads.append(self._process.num_threads())
            await asyncio.sleep(5.0)

    async def _kill(self, every: float) -> None:
        while True:
            await asyncio.sleep(self._draw.expovariate(1 / every))
            if engines := _workers(self._process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    os.kill(self._draw.choice(engines).pid, signal.SIGKILL)
                    self.seen.kills += 1


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _end(code: int, read: bytes) -> str:
    """How a request ended that was read to its end."""
    _, _, body = read.partition(b"\r\n\r\n")
    if code != 200:
        said = b'"error"' in body
        return f"{code}" if said and code in _DOCUMENTED else f"fault: status {code}, {body[:200]!r}"
    if b'"error"' in body and b'"error":null' not in body:
        return "error in the stream"
    ended = (b"[DONE]", b"message_stop", b"response.completed", b'"done":true', b'"stop":true')
    whole = b'"usage"' in body or b'"timings"' in body or b'"total_duration"' in body
    incomplete = b"response.incomplete" in body
    return (
        "answered" if incomplete or whole or any(mark in body for mark in ended) else f"fault: cut off, {body[-200:]!r}"
    )


def settled(daemon: Daemon, before: Held) -> dict[str, Any]:
    """What is left when nobody asks any more, by the daemon's and the engines' own counts; and a fresh answer."""
    assert daemon.process is not None
    began = time.monotonic()
    while time.monotonic() - began < _SETTLE_S and any(engine["users"] for engine in daemon.engines()):
        time.sleep(0.2)
    process = psutil.Process(daemon.process.pid)
    zombies = [child.pid for child in process.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]
    fresh = 0
    while time.monotonic() - began < 2 * _SETTLE_S and fresh != 200:
        fresh = daemon.chat("hello").status
        time.sleep(0.5)
    while (lost := leaked(daemon, before)) and time.monotonic() - began < 3 * _SETTLE_S:
        time.sleep(0.5)
    return {
        "users left": sum(engine["users"] for engine in daemon.engines()),
        "zombies": len(zombies),
        "workers": len(_workers(process)),
        "fresh answer": fresh,
        "unfinished rows": sum(row["finish"] is None and row["error"] is None for row in daemon.rows("queries")),
        "leaked": lost,
        "sequences": [engine["sequences"] for engine in daemon.engines()],
    }


@dataclass(frozen=True, slots=True)
class Held:
    """What a daemon has open: threads, files, and engines' processes."""

    threads: int
    files: int
    workers: int

    @staticmethod
    def of(daemon: Daemon) -> Held:
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        return Held(process.num_threads(), process.num_fds(), len(_workers(process)))


def leaked(daemon: Daemon, before: Held) -> list[str]:
    """What should not be there: sequences that nobody asks for, lost sequence numbers, threads, files, processes."""
    now, found = Held.of(daemon), []
    for engine in daemon.engines():
        held = engine["sequences"]
        if held and (held["waiting"] or held["running"] or held["active"] or held["kept"] + held["free"] != N_SEQ):
            found.append(f"sequences of {engine['model']}: {held}")
    # A pool of threads grows to its size once, and stays.
    allowed = (("threads", _POOL), ("files", _SPARE_FILES), ("workers", 0))
    return found + [
        f"{name}: {getattr(before, name)} -> {getattr(now, name)}"
        for name, more in allowed
        if getattr(now, name) > getattr(before, name) + more
    ]


def _workers(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "backends.worker" in " ".join(_line(child))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--kill-every", type=float, default=30.0, help="mean seconds between kills")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with running(LOCALAI_CTX="8192") as daemon:
        assert daemon.chat("hello").status == 200
        before = Held.of(daemon)
        storm, meter = Storm(daemon, options.model, options.seed), Meter()
        asyncio.run(storm.run(options.seconds, options.connections, options.kill_every))
        load = meter.read()
        left = settled(daemon, before)
    seen = storm.seen
    health = sorted(seen.health_ms)
    figures = {
        "requests": sum(seen.ends.values()),
        "ends": dict(seen.ends.most_common()),
        "kills": seen.kills,
        "health p50 ms": round(statistics.median(health), 1),
        "health p99 ms": round(health[int(0.99 * len(health))], 1),
        "health worst ms": round(health[-1], 1),
        "daemon MiB": [round(seen.daemon_mib[at * (len(seen.daemon_mib) - 1) // 6], 1) for at in range(7)],
        "open files": [seen.files[at * (len(seen.files) - 1) // 6] for at in range(7)],
        "threads": [seen.threads[at * (len(seen.threads) - 1) // 6] for at in range(7)],
        **left,
        "load": {"busy": load.busy, "foreign": load.foreign, "steal": load.steal, "load1": load.load1},
    }
    for fault in seen.faults[:20]:
        print(fault, file=sys.stderr)
    print(json.dumps(figures, indent=1))
    return 1 if seen.faults or left["zombies"] or left["users left"] or left["leaked"] else 0


if __name__ == "__main__":
    sys.exit(main())
