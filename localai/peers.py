"""Whose process is at the other end of a Unix socket; a second lock behind the socket's mode and its folder's.

A connection enters and is served, or closed before its first byte is read.
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


class PeerChecked(HttpToolsProtocol):
    """Serves this user and root alone on a Unix socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        end = transport.get_extra_info("socket")
        if end is None or end.family != socket.AF_UNIX:
            return
        user = _user_at(end.fileno())
        if user not in (_ROOT, os.getuid()):
            _log.warning("a process of user %d was turned away from the Unix socket", user)
            transport.abort()


def _user_at(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if sys.platform == "darwin":
            _, user = struct.unpack("II", end.getsockopt(_LOCAL, _LOCAL_PEERCRED, 8))
        else:
            _, user, _ = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
