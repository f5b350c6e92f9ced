"""Both ends of the child process that reads documents: paths go down, chunks or a reason come up, one line each.

The child may take a bounded time and memory and may write no file; what kills it costs one document.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock

from memory_store.chunks import chunks
from memory_store.documents import Block, extract
from memory_store.errors import InvalidMemory, ReaderEnded

SECONDS = 60.0
MEMORY_BYTES = 1 << 30
# What the child's own limits never send: somebody else has ended it, or the machine was out of memory.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


class Extractor:
    """One child, started at the first document and again after a death. Usable from any thread."""

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._seconds = seconds
        self._memory = memory_bytes
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def chunks(self, path: Path) -> list[Block]:
        """Raises InvalidMemory for what cannot be read in bounds, ReaderEnded where the child was ended, and its
        successor too."""
        with self._lock:
            try:
                line = self._asked(path)
            except ReaderEnded:
                line = self._asked(path)
        answer = json.loads(line)
        if "error" in answer:
            raise InvalidMemory(answer["error"], answer["hint"])
        return [Block(text, place) for text, place in answer["chunks"]]

    def close(self) -> None:
        with self._lock:
            self._end()

    def _asked(self, path: Path) -> bytes:
        child = self._running()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(str(path)).encode() + b"\n")
            child.stdin.flush()
            line, ended = self._line(child)
        except BrokenPipeError:
            line, ended = b"", True
        if line.endswith(b"\n"):
            return line
        ended = ended and child.wait() in _FROM_OUTSIDE
        self._end()
        if ended:
            raise ReaderEnded(
                "the process that read the document was ended from outside",
                "it is read again at the next change; is there enough free memory?",
            )
        raise InvalidMemory(
            f"the document took more than {self._seconds:g} s or {self._memory >> 20} MiB to read",
            "it may be damaged or hostile; cut it into parts if it is neither",
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            command = [sys.executable, "-P", "-m", "memory_store.extractor", str(self._memory)]
            # This very package, wherever it was imported from.
            here = str(Path(__file__).parents[1])
            path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        return self._child

    def _line(self, child: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
        """What the child has said in time; and whether it has closed its end."""
        assert child.stdout is not None
        deadline = time.monotonic() + self._seconds
        held = bytearray()
        while not held.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return bytes(held), False
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                return bytes(held), True
            held += piece
        return bytes(held), False

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                assert pipe is not None
                pipe.close()
            self._child = None


def main() -> None:
    """The child: answers until its parent closes the pipe."""
    memory = int(sys.argv[1])
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        try:
            found = [(chunk.text, chunk.place) for chunk in chunks(extract(Path(json.loads(line))))]
            answer: dict[str, object] = {"chunks": found}
        except InvalidMemory as error:
            answer = {"error": error.message, "hint": error.hint}
        except (MemoryError, RecursionError):
            answer = {"error": "the document is too large or too deeply nested", "hint": "cut it into parts"}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
