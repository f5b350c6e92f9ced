"""Control tokens that a user or a tool wrote are text, not commands: they are hidden from the template, then spelt out.

Messages enter and leave with such spellings replaced; the rendered prompt enters and leaves as pieces. Knows no
tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from localai.messages import Message

_UNTRUSTED = ("user", "tool")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the prompt; `special` tells whether control tokens spelt in it count as such."""

    text: str
    special: bool


class Quotes:
    """What was replaced in one prompt. `mark` is a private-use character that occurs nowhere in the messages."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._hidden: list[str] = []
        self._places = re.compile(f"{mark}([0-9]+){mark}")

    def hide(self, spelling: str) -> str:
        self._hidden.append(spelling)
        return f"{self._mark}{len(self._hidden) - 1}{self._mark}"

    def pieces(self, prompt: str) -> list[Piece]:
        """The rendered prompt with the spellings back in their places, empty stretches left out."""
        parts = self._places.split(prompt)
        # The pattern's one group puts the numbers at the odd places.
        found = [Piece(self._hidden[int(p)], False) if i % 2 else Piece(p, True) for i, p in enumerate(parts)]
        return [piece for piece in found if piece.text]


def quote(messages: Sequence[Message], control: Iterable[str]) -> tuple[list[Message], Quotes]:
    """Hide every control token of `control` that is spelt in a user's or a tool's message."""
    texts = [message.content for message in messages]
    used = {character for text in texts for character in text if ord(character) >= _PRIVATE_USE.start}
    quotes = Quotes(next(c for c in map(chr, _PRIVATE_USE) if c not in used))
    pattern = _spellings(tuple(sorted(control, key=len, reverse=True)))
    quoted = [
        replace(message, content=pattern.sub(lambda m: quotes.hide(m[0]), text))
        if message.role in _UNTRUSTED and pattern and text
        else message
        for message, text in zip(messages, texts, strict=True)
    ]
    return quoted, quotes


@lru_cache(maxsize=16)
def _spellings(control: tuple[str, ...]) -> re.Pattern[str] | None:
    """Matches the longest control token at a place; None for a vocabulary without any."""
    names = [re.escape(name) for name in control if name]
    return re.compile("|".join(names)) if names else None
