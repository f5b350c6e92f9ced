"""Server-sent events, read as they arrive: bytes cut anywhere enter, whole events leave.

It knows the line format only, not what the events mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event, or one comment line. `data` is None for a comment; `comment` is None for an event."""

    data: str | None = None
    comment: str | None = None


class SseParser:
    """Feed it bytes; it gives back the events that they complete. Text is decoded line by line, so no cut breaks it."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Undecodable bytes become U+FFFD. Fields other than `data` are skipped."""
        buffer = self._rest + piece
        # A final CR may be the first half of CR LF, which is one line end.
        held = b"\r" if buffer.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(buffer.removesuffix(held))
        self._rest = rest + held
        found: list[SseEvent] = []
        for line in lines:
            self._take(line.decode("utf-8", errors="replace"), found)
        return found

    def _take(self, line: str, found: list[SseEvent]) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                found.append(SseEvent(data="\n".join(self._data)))
                self._data = []
        elif not field:
            found.append(SseEvent(comment=value))
        elif field == "data":
            self._data.append(value)
