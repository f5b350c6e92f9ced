"""A client that costs next to nothing: requests as JSON lines on standard input, timed answers as JSON lines back.

It runs in a process of its own, so that its CPU time can be told from the server's. Bytes are kept as they come with
the time of their arrival, and are only parsed when all answers of a line have ended.
"""

from __future__ import annotations

import json
import re
import resource
import selectors
import socket
import sys
import time
from typing import Any

_EVENT = re.compile(rb"data: (.*?)\r?\n")
_SIZE = 1 << 16


class Exchange:
    """One request: `port`, `path`, `body`; sent `delay` seconds after the line's start.

    It is cut off after `stop_after` events, after `stop_s` seconds, or as soon as the request numbered `stop_with` has
    ended, whichever of these is given and comes first.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.due: float = spec.get("delay", 0.0)
        self.sent = 0.0
        self.ended: float | None = None
        self.stopped = False
        self.failure: str | None = None
        self.pieces: list[tuple[float, bytes]] = []
        self._seen = 0
        self.socket: socket.socket | None = None

    def open(self) -> None:
        body = json.dumps(self.spec["body"]).encode()
        head = f"POST {self.spec['path']} HTTP/1.1\r\nHost: 127.0.0.1:{self.spec['port']}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sent = time.monotonic()
        self.socket = socket.create_connection(("127.0.0.1", self.spec["port"]), timeout=30)
        self.socket.sendall(head.encode() + body)

    def read(self) -> None:
        """Take what has come; the end of the answer sets `ended`."""
        assert self.socket is not None
        try:
            piece = self.socket.recv(_SIZE)
        except OSError as error:
            self.failure = type(error).__name__
            piece = b""
        now = time.monotonic()
        if not piece:
            self.close(now)
            return
        self.pieces.append((now, piece))
        if "stop_after" in self.spec:
            self._seen += piece.count(b"data: ")
            if self._seen >= self.spec["stop_after"]:
                self.stop(now)

    def overdue(self, now: float) -> bool:
        return bool(now - self.sent > self.spec.get("stop_s", 600.0))

    def stop(self, now: float) -> None:
        self.stopped = True
        self.close(now)

    def close(self, now: float) -> None:
        assert self.socket is not None
        self.socket.close()
        self.ended = now

    def answer(self) -> dict[str, Any]:
        """Times are monotonic seconds; `times` are of the events that carried text."""
        raw = b"".join(piece for _, piece in self.pieces)
        found: dict[str, Any] = {
            "status": int(raw[9:12]) if raw.startswith(b"HTTP/1.1 ") else 0,
            "sent": self.sent,
            "ended": self.ended,
            "stopped": self.stopped,
            "failure": self.failure,
            "done": False,
            "times": [],
            "finish": None,
            "error": None,
            "error_at": None,
            "usage": None,
            "timings": None,
        }
        ends, at = [], 0
        for when, piece in self.pieces:
            at += len(piece)
            ends.append((at, when))
        index = 0
        for match in _EVENT.finditer(raw):
            while ends[index][0] < match.end():
                index += 1
            _take(match[1], ends[index][1], found)
        if not raw.partition(b"\r\n\r\n")[2].startswith(b"data") and b'"error"' in raw and not found["error"]:
            found["error"] = raw.rpartition(b"\r\n\r\n")[2].decode("utf-8", "replace")[:500]
        return found


def _take(payload: bytes, when: float, found: dict[str, Any]) -> None:
    if payload == b"[DONE]":
        found["done"] = True
        return
    data = json.loads(payload)
    if "error" in data:
        found["error"], found["error_at"] = data["error"].get("message"), when
        return
    found["usage"] = data.get("usage") or found["usage"]
    found["timings"] = data.get("timings") or found["timings"]
    for choice in data.get("choices") or []:
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        if text:
            found["times"].append(when)
        found["finish"] = choice.get("finish_reason") or found["finish"]


def run(specs: list[dict[str, Any]], at_once: int) -> list[dict[str, Any]]:
    """Play all requests, at most `at_once` of them at a time, and return their answers in order."""
    exchanges = [Exchange(spec) for spec in specs]
    waiting = sorted(range(len(specs)), key=lambda number: exchanges[number].due)
    running: set[int] = set()
    start = time.monotonic()
    with selectors.DefaultSelector() as selector:
        while waiting or running:
            now = time.monotonic()
            while waiting and len(running) < at_once and start + exchanges[waiting[0]].due <= now:
                number = waiting.pop(0)
                exchanges[number].open()
                selector.register(exchanges[number].socket, selectors.EVENT_READ, number)  # type: ignore[arg-type]
                running.add(number)
            for key, _ in selector.select(_pause(exchanges, waiting, running, start)):
                exchanges[key.data].read()
            _reap(exchanges, running, selector)
    return [exchange.answer() for exchange in exchanges]


def _pause(exchanges: list[Exchange], waiting: list[int], running: set[int], start: float) -> float | None:
    """Seconds until something is due; None, for ever, where only bytes are waited for."""
    now = time.monotonic()
    moments = [exchanges[n].sent + exchanges[n].spec["stop_s"] for n in running if "stop_s" in exchanges[n].spec]
    moments += [start + exchanges[waiting[0]].due] if waiting and start + exchanges[waiting[0]].due > now else []
    return max(0.0, min(moments) - now) if moments else None


def _reap(exchanges: list[Exchange], running: set[int], selector: selectors.BaseSelector) -> None:
    now = time.monotonic()
    for number in list(running):
        exchange = exchanges[number]
        leader = exchange.spec.get("stop_with")
        if exchange.ended is None and (
            exchange.overdue(now) or (leader is not None and exchanges[leader].ended is not None)
        ):
            exchange.stop(now)
        if exchange.ended is not None:
            running.discard(number)
            for key in [k for k in selector.get_map().values() if k.data == number]:
                selector.unregister(key.fileobj)


def main() -> None:
    """Lines of `{"requests": [...], "at_once": n}` in, `{"answers": [...], "cpu_s": seconds}` out."""
    for line in sys.stdin:
        order = json.loads(line)
        before = _cpu()
        answers = run(order["requests"], order.get("at_once") or len(order["requests"]))
        print(json.dumps({"answers": answers, "cpu_s": _cpu() - before}), flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
