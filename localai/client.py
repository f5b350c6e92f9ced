"""The way to the daemon for the command line and the chat: JSON in and out, and event streams that can be cut short.

One connection per request, over the Unix socket or TCP; quick to import. It knows nothing of what the requests mean;
every failure leaves as an error of `localai.errors`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from urllib.parse import SplitResult, urlsplit

from localai.errors import ConfigError, DaemonUnreachable, LocalaiError
from localai.exchange import CONNECT_TIMEOUT, Exchange, Json, UnixConnection, error_of
from localai.sse import SseEvent, SseParser

READ_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One JSON object from an event stream, or one comment line; the other field is None."""

    data: Json | None = None
    comment: str | None = None


class Client:
    """Talks to one daemon: through its Unix socket `socket`, or at `base_url` (http://host:port).

    Usable from any thread. Raises DaemonUnreachable where nothing answers, DeadlinePassed where the daemon stays
    silent for `timeout` seconds (None: any time), and otherwise the class of `localai.errors` that the daemon named.
    `app` is how the ledger names who asked.
    """

    def __init__(
        self, socket: Path | None = None, base_url: str | None = None, token: str | None = None, app: str = ""
    ) -> None:
        if (socket is None) == (base_url is None):
            raise ConfigError("a client needs a socket or a base URL, and not both", "give exactly one of them")
        self._socket = socket
        self._url = None if base_url is None else _checked(base_url)
        self._headers = {"Content-Type": "application/json"}
        if app:
            self._headers["User-Agent"] = app
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._lock = Lock()
        self._closed = False
        self._running: set[Exchange] = set()

    def get(self, path: str, *, timeout: float | None = READ_TIMEOUT) -> Json:
        return self._request("GET", path, None, timeout)

    def post(self, path: str, body: Json, *, timeout: float | None = READ_TIMEOUT) -> Json:
        return self._request("POST", path, body, timeout)

    def patch(self, path: str, body: Json, *, timeout: float | None = READ_TIMEOUT) -> Json:
        return self._request("PATCH", path, body, timeout)

    def delete(self, path: str, *, timeout: float | None = READ_TIMEOUT) -> Json:
        return self._request("DELETE", path, None, timeout)

    def stream(self, path: str, body: Json, *, timeout: float | None = None) -> EventStream:
        """POST `body` and read server-sent events up to `[DONE]`. It connects when the first event is asked for."""
        return EventStream(self._exchange(timeout), path, body, self._headers)

    def close(self) -> None:
        """Cut short all that is running, from whatever thread, and refuse later requests."""
        with self._lock:
            self._closed = True
            running = tuple(self._running)
        for exchange in running:
            exchange.close()

    def _request(self, method: str, path: str, body: Json | None, timeout: float | None) -> Json:
        exchange = self._exchange(timeout)
        try:
            exchange.send(method, path, body, self._headers)
            return _parsed(exchange.read())
        finally:
            exchange.close()

    def _exchange(self, timeout: float | None) -> Exchange:
        exchange = Exchange(self._connection(), timeout, self._forget)
        with self._lock:
            if self._closed:
                raise DaemonUnreachable("this client has been closed", "make a new one")
            self._running.add(exchange)
        return exchange

    def _connection(self) -> http.client.HTTPConnection:
        if self._socket is not None:
            return UnixConnection(self._socket)
        assert self._url is not None
        assert self._url.hostname is not None
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname, self._url.port, timeout=CONNECT_TIMEOUT)

    def _forget(self, exchange: Exchange) -> None:
        with self._lock:
            self._running.discard(exchange)


class EventStream:
    """The events of one request, in order. Whoever leaves the loop early calls `close`, and any thread may.

    Closing ends the connection at once, which tells the daemon to stop; the loop then ends without an error. An error
    frame is raised as what it says; an answer that breaks off before `[DONE]` raises DaemonUnreachable.
    """

    def __init__(self, exchange: Exchange, path: str, body: Json, headers: dict[str, str]) -> None:
        self._exchange = exchange
        self._events = self._read(path, body, headers)

    def __iter__(self) -> Iterator[ServerEvent]:
        return self._events

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._exchange.close()

    def _read(self, path: str, body: Json, headers: dict[str, str]) -> Iterator[ServerEvent]:
        parser = SseParser()
        try:
            self._exchange.send("POST", path, body, headers)
            while True:
                piece = self._exchange.read1()
                for event in parser.feed(piece):
                    if event.data == "[DONE]" or self._exchange.closed:
                        return
                    yield _event_of(event)
                if not piece:
                    raise DaemonUnreachable("the answer broke off", "`localai logs` may say why; then ask again")
        except LocalaiError:
            # Closed on purpose: whatever the reader met on its way out is no failure.
            if not self._exchange.closed:
                raise
        finally:
            self._exchange.close()


def _event_of(event: SseEvent) -> ServerEvent:
    if event.data is None:
        return ServerEvent(comment=event.comment)
    data = _parsed(event.data)
    if isinstance(data.get("error"), dict):
        raise error_of(data["error"])
    return ServerEvent(data=data)


def _parsed(content: bytes | str) -> Json:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LocalaiError("the answer is no JSON object", "does another program listen at this address?")
    return found


def _checked(base_url: str) -> SplitResult:
    hint = "write it as http://127.0.0.1:8642"
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"{base_url!r} is no base URL: {error}", hint) from error
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise ConfigError(f"{base_url!r} is no base URL", hint)
    return url
