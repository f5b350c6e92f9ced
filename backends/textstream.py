"""Bytes of tokens go in, text that is certain comes out, cut at the first stop string. It knows nothing of tokens."""

from __future__ import annotations

import codecs


class _Search:
    """The Knuth-Morris-Pratt search for one stop string, a character at a time."""

    __slots__ = ("_borders", "matched", "word")

    def __init__(self, word: str) -> None:
        self.word = word
        self.matched = 0
        self._borders = [0] * len(word)
        border = 0
        for i in range(1, len(word)):
            while border and word[i] != word[border]:
                border = self._borders[border - 1]
            border += word[i] == word[border]
            self._borders[i] = border

    def feed(self, char: str) -> bool:
        """Take one character; True where it completes the word. `matched` is how much of the word is in progress."""
        matched = self.matched
        while matched and char != self.word[matched]:
            matched = self._borders[matched - 1]
        matched += char == self.word[matched]
        complete = matched == len(self.word)
        self.matched = self._borders[-1] if complete else matched
        return complete


class TextStream:
    """Decodes UTF-8 step by step and cuts the text at the first stop string, also across the borders of the pieces.

    The occurrence that starts first wins, of several that start together the longest; so text is withheld as long as
    an earlier or longer one is still possible. Bytes that are not UTF-8 become U+FFFD once they are certain to be
    wrong. Empty stop strings are ignored. The time is linear in the text, times the number of stop strings.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._searches = [_Search(word) for word in dict.fromkeys(stop) if word]
        self._held = ""
        self._held_from = 0
        self._end = 0
        self._found: tuple[int, int, str] | None = None
        self.stopped: str | None = None

    def push(self, piece: bytes) -> str:
        """Take the bytes of a token; return the text that is certain now, often ''. After a stop it is always ''."""
        return "" if self.stopped is not None else self._advance(self._decoder.decode(piece))

    def flush(self) -> str:
        """End the text: return what was withheld, with U+FFFD for a character that was cut off."""
        if self.stopped is not None:
            return ""
        text = self._advance(self._decoder.decode(b"", final=True))
        if self.stopped is None:
            text += self._cut(self._found) if self._found else self._release(self._end)
        return text

    def _advance(self, text: str) -> str:
        if not self._searches:
            return text
        self._held += text
        for char in text:
            self._look(char)
            if self._found and self._undecided() > self._found[0]:
                return self._cut(self._found)
        return self._release(min(self._undecided(), self._found[0] if self._found else self._end))

    def _look(self, char: str) -> None:
        self._end += 1
        for search in self._searches:
            if search.feed(char):
                size = len(search.word)
                match = (self._end - size, -size, search.word)
                self._found = min(self._found, match) if self._found else match

    def _undecided(self) -> int:
        """Where the earliest stop string that is still in progress starts, in characters from the beginning."""
        return self._end - max(search.matched for search in self._searches)

    def _release(self, position: int) -> str:
        """Let go of the text before `position`."""
        size = position - self._held_from
        text, self._held, self._held_from = self._held[:size], self._held[size:], position
        return text

    def _cut(self, found: tuple[int, int, str]) -> str:
        """End the text where the stop string starts."""
        start, _, self.stopped = found
        text = self._release(start)
        self._held = ""
        return text
