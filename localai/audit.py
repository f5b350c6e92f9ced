"""Who did what beside inference, and who was turned away: one JSON line each, without texts."""

from __future__ import annotations

import logging
import logging.handlers
import time
from pathlib import Path

import msgspec

_MOST_BYTES = 5_000_000
_KEPT = 3
_LONGEST = 200


class Audit:
    """The file at `path`, turned over at 5 MB."""

    def __init__(self, path: Path) -> None:
        self._handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_MOST_BYTES, backupCount=_KEPT, encoding="utf-8", delay=True
        )

    def note(self, who: str, method: str, path: str, status: int) -> None:
        """A request that was answered with `status`. Where the disk is full, the log of the daemon tells."""
        line = {"time": round(time.time(), 3), "who": who, "method": method, "path": path[:_LONGEST], "status": status}
        text = msgspec.json.encode(line).decode()
        self._handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        self._handler.close()
