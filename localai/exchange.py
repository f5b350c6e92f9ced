"""One HTTP request to the daemon and its answer, on a connection of its own, which any thread may end.

Method, path and JSON enter; the open response or an error of `localai.errors` leaves. It knows no routes.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from localai.errors import DaemonUnreachable, DeadlinePassed, LocalaiError

CONNECT_TIMEOUT = 5.0
_START = "start it with `localai start`"

Json = dict[str, Any]
BROKEN = (OSError, ValueError, http.client.HTTPException)
"""What http.client raises when the other end goes away, or this one does while another thread reads."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CONNECT_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Exchange:
    """`send` once, then `read1` or `read`; `close` at the end, or from another thread to cut it short."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        silence: float | None,
        on_close: Callable[[Exchange], None],
    ) -> None:
        """`silence` is how many seconds without a byte are accepted, None for any."""
        self._connection = connection
        self._silence = silence
        self._on_close = on_close
        self._reader = Lock()
        self._sock: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self.closed = False

    def send(self, method: str, path: str, body: Json | None, headers: dict[str, str]) -> None:
        """Connect, ask, and wait for the head of the answer; an error status is raised as what its body says."""
        content = None if body is None else json.dumps(body).encode()
        with self._reading():
            self._connect()
            # A body over the limit is answered before it was read to its end: what that answer says is worth having.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(method, path, content, headers)
            self._response = self._connection.getresponse()
            if self._response.status >= 300:
                raise error_from(self._response.status, self._response.read())

    def read(self) -> bytes:
        with self._reading():
            assert self._response is not None
            return self._response.read()

    def read1(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end of the answer."""
        with self._reading():
            assert self._response is not None
            return self._response.read1(65536)

    def close(self) -> None:
        """End the connection at once. A thread that reads is woken, and frees it instead of this one."""
        self.closed = True
        self._on_close(self)
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._free()

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            raise _unreachable(error) from error
        # Kept here, because http.client lets go of it before the answer has been read.
        self._sock = self._connection.sock
        self._sock.settimeout(self._silence)
        if self.closed:
            raise http.client.NotConnected

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._reader:
                if self.closed:
                    raise http.client.NotConnected
                yield
        except BROKEN as error:
            raise self._failure(error) from error
        finally:
            if self.closed:
                self._free()

    def _free(self) -> None:
        if self._reader.acquire(blocking=False):
            try:
                if self._response is not None:
                    self._response.close()
                self._connection.close()
            finally:
                self._reader.release()

    def _failure(self, error: Exception) -> LocalaiError:
        if isinstance(error, TimeoutError) and self._silence is not None:
            message = f"the daemon has been silent for {self._silence:g} s"
            return DeadlinePassed(message, "`localai status` shows what it is doing")
        return DaemonUnreachable("the daemon went away before its answer was complete", f"{_START}, then ask again")


def error_from(status: int, body: bytes) -> LocalaiError:
    """The error that an answer's body describes, as the class of the tree that has its code."""
    try:
        described = json.loads(body)["error"]
        return error_of(described, status)
    except (ValueError, KeyError, TypeError):
        message = f"the answer has status {status} and is none of the daemon's"
        return LocalaiError(message, "does another program listen at this address?")


def error_of(described: Json, status: int | None = None) -> LocalaiError:
    """The same for an error object alone: `{message, hint, code, param}`, all but the message optional.

    Built without the subclass's own constructor: it would word the message anew.
    """
    kind = _by_code(LocalaiError).get(str(described.get("code")), LocalaiError)
    error = kind.__new__(kind)
    hint = str(described.get("hint") or "")
    # OpenAI's clients show the message alone, so on the wire it ends in the hint.
    message = str(described["message"]).removesuffix(f". {hint}")
    LocalaiError.__init__(error, message, hint, param=described.get("param"))
    if status is not None:
        error.status = status
    return error


def _by_code(root: type[LocalaiError]) -> dict[str, type[LocalaiError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        # A subclass that keeps its parent's code adds nothing.
        found = _by_code(child) | found
    return found


def _unreachable(error: OSError) -> DaemonUnreachable:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return DaemonUnreachable("the daemon is not running", _START)
    if isinstance(error, TimeoutError):
        hint = "`localai logs` tells what it is doing"
        return DaemonUnreachable(f"the daemon accepted no connection within {CONNECT_TIMEOUT:g} s", hint)
    if isinstance(error, PermissionError):
        hint = "use the account that started it, or its HTTP address with a token"
        return DaemonUnreachable("this user may not use the daemon's socket", hint)
    return DaemonUnreachable(f"the daemon cannot be reached: {error.strerror or error}", _START)
