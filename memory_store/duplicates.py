"""Has this been said before? Texts that are equal, nearly equal, or contained in a longer one.

Texts by number enter, the number of what covers a new text leaves. It samples shingles of five words, then compares.
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import blake2b

SHINGLE = 5
SAMPLED = 4
COVERED = 0.9
_WORD = re.compile(r"[^\W_]+")


class Seen:
    """The texts of one namespace that a new one is compared with."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._places: dict[int, set[int]] = {}

    def add(self, num: int, text: str) -> None:
        self._texts[num] = text
        for key in _sample(shingles(text)):
            self._places.setdefault(key, set()).add(num)

    def drop(self, num: int) -> None:
        for key in _sample(shingles(self._texts.pop(num, ""))):
            self._places.get(key, set()).discard(num)

    def covering(self, text: str) -> int | None:
        """The first text that holds at least 90 % of this one, None where there is none."""
        own = shingles(text)
        if not own:
            return None
        sampled = _sample(own)
        votes = Counter(num for key in sampled for num in self._places.get(key, ()))
        likely = sorted(num for num, count in votes.items() if count >= len(sampled) * COVERED * 0.7)
        for num in likely[:50]:
            if len(own & shingles(self._texts[num])) >= COVERED * len(own):
                return num
        return None


def shingles(text: str) -> set[int]:
    """Hashes of all runs of five words; of the whole where it is shorter. Case and punctuation do not count."""
    words = _WORD.findall(text.casefold())
    runs = [words[start : start + SHINGLE] for start in range(max(1, len(words) - SHINGLE + 1))] if words else []
    return {int.from_bytes(blake2b(" ".join(run).encode(), digest_size=8).digest(), "big") for run in runs}


def _sample(found: set[int]) -> set[int]:
    """Every fourth by its hash, the same ones wherever they occur; the lowest where that leaves none."""
    return {key for key in found if key % SAMPLED == 0} or ({min(found)} if found else set())
