"""Text that arrives in pieces, read by generators that pause where they need more of it.

A reader is a generator that yields nothing; it is resumed when text has been added or the stream has been closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]


class TextStream:
    """The text that has arrived and is not yet used up, and the place of its reader.

    While `hold` counts above zero nothing is forgotten, so that a reader can go back to a place it has noted.
    """

    __slots__ = ("at", "closed", "hold", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.closed = False
        self.hold = 0

    def append(self, text: str) -> None:
        """Add what has arrived; places noted before stay valid only while something holds the stream."""
        if self.hold:
            self.text += text
        else:
            self.text = self.text[self.at :] + text
            self.at = 0

    def more(self) -> Reading[bool]:
        """Wait for more text; False at the end."""
        if self.closed:
            return False
        yield
        return not self.closed

    def peek(self) -> Reading[str]:
        """The next character, '' at the end."""
        while self.at >= len(self.text):
            if not (yield from self.more()):
                return ""
        return self.text[self.at]

    def take(self, count: int) -> Reading[str]:
        """The next `count` characters, fewer at the end."""
        while len(self.text) - self.at < count:
            if not (yield from self.more()):
                break
        start = self.at
        self.at = min(len(self.text), start + count)
        return self.text[start : self.at]

    def skip(self, characters: str) -> Reading[None]:
        """Pass over any of `characters`."""
        while (character := (yield from self.peek())) and character in characters:
            self.at += 1

    def run(self, pattern: re.Pattern[str], out: Callable[[str], None]) -> Reading[None]:
        """Hand to `out`, as it comes, what `pattern` (of the form `[...]*`) matches from here."""
        while (yield from self.peek()):
            match = pattern.match(self.text, self.at)
            if match is None or match.end() == self.at:
                return
            self.at = match.end()
            out(match.group())

    def one_of(self, options: Sequence[str]) -> Reading[str]:
        """Pass over whichever of `options` the text continues with; '' for none."""
        while True:
            rest = self.text[self.at : self.at + max(map(len, options), default=0)]
            for option in options:
                if rest.startswith(option):
                    self.at += len(option)
                    return option
            if not any(option.startswith(rest) for option in options) or not (yield from self.more()):
                return ""

    def until(self, stops: Sequence[str], out: Callable[[str], None]) -> Reading[str]:
        """Hand text to `out` up to the first of `stops`, and pass over that; '' where the text ends without one.

        Text goes out at once, except an ending that may be the beginning of a stop.
        """
        pattern = re.compile("|".join(map(re.escape, sorted(stops, key=len, reverse=True))) or r"(?!)")
        longest = max(map(len, stops), default=0)
        while True:
            start = self.at
            if match := pattern.search(self.text, start):
                self.at = match.end()
                out(self.text[start : match.start()])
                return match.group()
            tail = self.text[max(start, len(self.text) - longest + 1) :] if longest else ""
            kept = next((len(tail) - i for i in range(len(tail)) if any(s.startswith(tail[i:]) for s in stops)), 0)
            self.at = len(self.text) - kept
            out(self.text[start : self.at])
            if not (yield from self.more()):
                start, self.at = self.at, len(self.text)
                out(self.text[start:])
                return ""
