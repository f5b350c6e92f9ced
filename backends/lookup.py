"""Guesses the next tokens of a text from the text itself: what followed the last tokens where they stood before.

Tokens enter; guesses leave, with the chance that each is right. That is learned from every token of the answer, also
while nobody uses the guesses, so that it costs no step to find out that a text does not repeat itself.
"""

from __future__ import annotations

from collections.abc import Sequence

_GRAM = 3
"""Tokens that must agree before a place is followed."""
_CLASSES = 8
_MOST = 2 ** (_CLASSES - 2)
"""Tokens in agreement beyond which more make no difference."""
_PRIOR = 2.0
"""Readings that the first opinion counts for."""
_FADE = 0.97
"""Share of old readings that is left after a new one: an answer may copy first and then comment."""
_DOUBT = 5.0
"""Tokens in agreement at which the first opinion gives the next one an even chance."""


class Lookup:
    """Of one sequence, whose first `prompt` tokens were given."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._seen = 0
        self._after: dict[tuple[int, ...], int] = {}
        self._at = -1
        self._agreed = 0
        self._tried = [_PRIOR] * _CLASSES
        self._right = [_PRIOR * (lambda n: n / (n + _DOUBT))(1.5 * 2 ** (c - 1)) for c in range(_CLASSES)]

    @property
    def agreed(self) -> int:
        """Tokens in a row that a place further up would have given."""
        return self._agreed

    def follow(self, tokens: Sequence[int]) -> None:
        """Take the tokens that have come since the last time."""
        for place in range(self._seen, len(tokens)):
            if place >= self._prompt:
                self._compare(tokens, place)
            if place + 1 < _GRAM:
                continue
            gram = tuple(tokens[place + 1 - _GRAM : place + 1])
            # Where the prompt repeats itself is no matter, but what it ends with is what the answer goes on from.
            if place + 1 >= self._prompt and self._agreed < _GRAM and gram in self._after:
                self._at = self._after[gram]
                self._agreed = _common(tokens, self._at, place + 1)
            self._after[gram] = place + 1
        self._seen = len(tokens)

    def _compare(self, tokens: Sequence[int], place: int) -> None:
        if self._at < 0:
            return
        right = tokens[self._at] == tokens[place]
        kind = _class(self._agreed)
        self._tried[kind] = _FADE * self._tried[kind] + 1.0
        self._right[kind] = _FADE * self._right[kind] + right
        if right:
            self._agreed += 1
        elif self._agreed > 1:
            # One word may have been exchanged for another.
            self._agreed = 1
        else:
            self._at, self._agreed = -1, 0
            return
        self._at += 1

    def guess(self, tokens: Sequence[int], most: int) -> tuple[list[int], list[float]]:
        """Up to `most` tokens, and for each the chance that it is right if those before it are."""
        if self._at < 0:
            return [], []
        period = len(tokens) - self._at
        guessed = [tokens[self._at + n % period] for n in range(most)]
        kinds = (_class(self._agreed + n) for n in range(most))
        return guessed, [self._right[k] / self._tried[k] for k in kinds]


def _common(tokens: Sequence[int], one: int, other: int) -> int:
    """How many tokens before two places are the same, up to `_MOST`."""
    count = 0
    while count < min(one, other, _MOST) and tokens[one - 1 - count] == tokens[other - 1 - count]:
        count += 1
    return count


def _class(agreed: int) -> int:
    return min(agreed.bit_length(), _CLASSES - 1)
