"""Who is at the other end of a connection, and whether it ever gets to the point.

A connection enters and is served, or closed: before its first byte is read, where a Unix socket's other end belongs to
another user; later, where the head of a request takes too long or too much.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_log = logging.getLogger(__name__)

_LOCAL, _LOCAL_PEERCRED = 0, 1
"""SOL_LOCAL and LOCAL_PEERCRED of sys/un.h on macOS, which Python does not name."""
_ROOT = 0
_MOST_HEAD = 64 * 1024
"""Bytes of a request's target and headers together."""


class PeerChecked(HttpToolsProtocol):
    """Serves this user and root alone on a Unix socket. `head_s` is how many seconds the head of a request may take."""

    head_s = 60.0
    _overdue: asyncio.TimerHandle | None = None
    _head = 0

    @classmethod
    def within(cls, seconds: float) -> type[PeerChecked]:
        """The same with another `head_s`; the server makes the instances."""
        return type(cls.__name__, (cls,), {"head_s": seconds})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._overdue = self.loop.call_later(self.head_s, self._give_up)
        end = transport.get_extra_info("socket")
        if end is None or end.family != socket.AF_UNIX:
            return
        user = _user_at(end.fileno())
        if user not in (_ROOT, os.getuid()):
            _log.warning("a process of user %d was turned away from the Unix socket", user)
            transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        if self._overdue is None:
            self._overdue = self.loop.call_later(self.head_s, self._give_up)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._grow(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_time()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _in_time(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _grow(self, size: int) -> None:
        self._head += size
        if self._head > _MOST_HEAD:
            self._give_up()

    def _give_up(self) -> None:
        self._in_time()
        self.transport.abort()


def _user_at(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if sys.platform == "darwin":
            _, user = struct.unpack("II", end.getsockopt(_LOCAL, _LOCAL_PEERCRED, 8))
        else:
            _, user, _ = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
