"""A program in a pseudo terminal: keys go in, and it is told when some bytes have come out."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from localai.errors import DeadlinePassed

_READ = 65536


class Terminal:
    """`seen` are all bytes since the last key."""

    def __init__(self, fd: int, pid: int) -> None:
        self.pid = pid
        self._fd = fd
        self.seen = b""

    def type(self, keys: bytes) -> None:
        """Send keys, and forget what came before."""
        self.drain(0.0)
        self.seen = b""
        os.write(self._fd, keys)

    def wait(self, shown: bytes, seconds: float = 60.0) -> float:
        """Seconds until these bytes come. Raises DeadlinePassed."""
        begun = time.monotonic()
        while shown not in self.seen:
            left = seconds - (time.monotonic() - begun)
            if left <= 0:
                raise DeadlinePassed(f"the terminal did not show {shown!r} in {seconds:.0f} s")
            self._read(left)
        return time.monotonic() - begun

    def drain(self, seconds: float) -> None:
        """Read what comes for so long: a full terminal would stop the program."""
        end = time.monotonic() + seconds
        while True:
            self._read(max(0.0, min(0.05, end - time.monotonic())))
            if time.monotonic() >= end:
                return

    def _read(self, seconds: float) -> None:
        if select.select([self._fd], [], [], seconds)[0]:
            try:
                self.seen += os.read(self._fd, _READ)
            except OSError:
                time.sleep(0.01)


@contextmanager
def terminal(
    command: Sequence[str], environment: dict[str, str], *, columns: int = 100, rows: int = 30
) -> Iterator[Terminal]:
    """`command` in a terminal of this size; killed at the end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], list(command), {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"})
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        yield Terminal(fd, pid)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(fd)
