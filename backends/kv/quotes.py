"""Finds texts that were forgotten in what KV blocks hold, by the bytes that their tokens stand for.

Pieces of texts and a vocabulary enter; where tokens spell one of them leaves. Knows neither blocks nor tiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


class Quotes:
    """`pieces` are byte strings of which any tells a quotation; none of them means that everything quotes."""

    def __init__(self, pieces: Iterable[bytes], spell: Callable[[int], bytes]) -> None:
        """`spell` gives a token's bytes."""
        self._by_size: dict[int, set[bytes]] = {}
        for piece in pieces:
            if piece:
                self._by_size.setdefault(len(piece), set()).add(piece)
        self._spell = spell
        self._spelt: dict[int, bytes] = {}

    @property
    def reach(self) -> int:
        """Bytes before a block that may belong to a quotation which ends in it."""
        return max(self._by_size, default=1) - 1

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        spelt = self._spelt
        return b"".join(spelt[t] if t in spelt else self._learn(t) for t in tokens)

    def first(self, text: bytes) -> int:
        """Where the first quotation in `text` begins; -1 where there is none."""
        if not self._by_size:
            return 0
        found = [self._first(text, size, pieces) for size, pieces in self._by_size.items()]
        return min((place for place in found if place >= 0), default=-1)

    def within(self, tokens: Sequence[int]) -> bool:
        return self.first(self.bytes_of(tokens)) >= 0

    @staticmethod
    def _first(text: bytes, size: int, pieces: set[bytes]) -> int:
        return next((at for at in range(len(text) - size + 1) if text[at : at + size] in pieces), -1)

    def _learn(self, token: int) -> bytes:
        self._spelt[token] = self._spell(token)
        return self._spelt[token]
