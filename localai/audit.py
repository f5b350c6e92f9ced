"""Who did what beside inference, and who was turned away: one JSON line each, without texts."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

_MOST_BYTES = 5_000_000
_KEPT = 3
_LONGEST = 200


class _File(logging.handlers.RotatingFileHandler):
    """Says once that a line could not be written, instead of a traceback for each."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self._told:
            self._told = True
            _log.error("the audit log cannot be written: %s", sys.exc_info()[1])


class Audit:
    """The file at `path`, turned over at 5 MB."""

    def __init__(self, path: Path) -> None:
        self._handler = _File(path, maxBytes=_MOST_BYTES, backupCount=_KEPT, encoding="utf-8", delay=True)

    def note(self, who: str, method: str, path: str, status: int) -> None:
        """A request that was answered with `status`. Where the disk is full, the log of the daemon tells."""
        line = {"time": round(time.time(), 3), "who": who, "method": method, "path": path[:_LONGEST], "status": status}
        text = msgspec.json.encode(line).decode()
        self._handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        with suppress(OSError):
            # What a full disk could not take was told when it was written.
            self._handler.close()
