"""Text of unknown origin, made fit for a terminal: no control characters, so no escape sequences."""

from __future__ import annotations

_KEPT = "\n\t"
_REMOVED = dict.fromkeys(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT)


def clean(text: str) -> str:
    """Without the C0 and C1 control characters and DEL, except line feed and tab."""
    return text.translate(_REMOVED)
