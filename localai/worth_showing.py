"""Which of the memories that were found are worth showing to a model: as few as answer the question.

A question and its hits enter, best first; fewer leave, in the same order. Knows nothing of models and tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from memory_store.plain_search import STOP_WORDS
from memory_store.words import Words

if TYPE_CHECKING:
    from memory_store.recall import Hit

# Below this a note is about something else: measured by cosine, or by the share of the question's own words.
LEAST_COSINE = 0.35
LEAST_COVERED = 0.5
LEAST_OF_BEST = 0.4
# What is nearer to the question by this cosine than a complete note, or has this share of its score, is not outdone.
NEARER = 0.05
NEARLY = 0.85
_WORD = re.compile(r"\w+")


def worth_showing(question: str, hits: Sequence[Hit]) -> list[Hit]:
    """Those that are likely about the question, no text twice.

    A complete hit has every telling word of the question that any hit has, and half of them at least. Beside it
    look-alikes only mislead: what lacks some of these words, is no more like the question and scores clearly less
    goes, unless it is trusted more. Where no hit is complete, as where several facts are asked for, all stay.
    """
    if not hits:
        return []
    asked = set(_terms(" ".join(word for word in _WORD.findall(question) if word.casefold() not in STOP_WORDS)))
    shared = [frozenset(asked.intersection(_terms(hit.memory.text))) for hit in hits]
    found: dict[str, tuple[Hit, frozenset[str]]] = {}
    for hit, words in zip(hits, shared, strict=True):
        covered = len(words) / len(asked) if asked else 0.0
        likely = hit.why.cosine >= LEAST_COSINE or covered >= LEAST_COVERED or hit.why.turns > 0
        if likely and hit.score >= LEAST_OF_BEST * hits[0].score:
            found.setdefault(" ".join(hit.memory.text.casefold().split()), (hit, words))
    every = frozenset[str]().union(*shared)
    complete = [hit for hit, words in found.values() if words == every and len(words) >= LEAST_COVERED * len(asked)]
    return [hit for hit, words in found.values() if words == every or not _outdone(hit, complete)]


def _outdone(hit: Hit, complete: Sequence[Hit]) -> bool:
    """A neighbouring turn is no look-alike: it belongs to what it stands beside."""
    return hit.why.turns == 0 and any(
        hit.why.cosine <= other.why.cosine + NEARER and hit.score < NEARLY * other.score and hit.trust <= other.trust
        for other in complete
    )


def _terms(text: str) -> list[str]:
    return _words().terms([text])[0]


@cache
def _words() -> Words:
    return Words()
