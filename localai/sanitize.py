"""Text of unknown origin, made fit for a terminal: no control characters, so no escape sequences."""

from __future__ import annotations

_KEPT = "\n\t"
_CONTROLS = (code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT)
# Embeddings, overrides and isolates reorder what stands around them; right-to-left letters need none of them.
_REORDERING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REMOVED = dict.fromkeys((*_CONTROLS, *_REORDERING, 0x2028, 0x2029))


def clean(text: str) -> str:
    """Without the C0 and C1 control characters and DEL, except line feed and tab, and without reordering ones."""
    return text.translate(_REMOVED)


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(clean(text).split())
