"""Does a text quote what is to be forgotten? However it was spaced, capitalised or ended, and sentence by sentence.

Texts enter once, each other text is then judged. It knows nothing of where either comes from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LEAST = 12
"""Characters below which a text that has them quotes nothing."""
LEAST_SENTENCE = 24
_FEW = 64
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_ENDS = " \t.,;:!?…。！？'\"“”‘’«»()[]-–—*_#>`"


class Quotations:
    """Of whole texts, and of their sentences where these are long enough to be nobody else's by chance."""

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = set[str]()
        for text in texts:
            pieces |= {piece for piece in [_plain(text).strip(_ENDS)] if len(piece) >= LEAST}
            sentences = (_plain(sentence).strip(_ENDS) for sentence in _SENTENCE.split(text))
            pieces |= {sentence for sentence in sentences if len(sentence) >= LEAST_SENTENCE}
        self._pieces = sorted(pieces)
        self._heads: dict[str, list[str]] = {}
        for piece in self._pieces:
            self._heads.setdefault(piece[:LEAST], []).append(piece)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def within(self, text: str) -> bool:
        plain = _plain(text)
        if len(self._pieces) <= _FEW:
            return any(piece in plain for piece in self._pieces)
        windows = (self._heads.get(plain[at : at + LEAST], ()) for at in range(len(plain) - LEAST + 1))
        return any(plain.startswith(piece, at) for at, found in enumerate(windows) for piece in found)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
