"""Which of the memories that were found, and what of each, are worth showing to a model: as little as answers.

A question and its hits enter, best first; fewer leave, in the same order. Knows nothing of models and tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from localai.excerpts import Span, excerpt, rarity, reach
from memory_store.embed import StaticEmbedder, Vectors
from memory_store.plain_search import STOP_WORDS
from memory_store.sentences import Sentence, sentences
from memory_store.words import Words, tokens

if TYPE_CHECKING:
    from memory_store.recall import Hit

# Below this a note is about something else: measured by cosine, or by the share of the question's own words.
LEAST_COSINE = 0.35
LEAST_COVERED = 0.5
LEAST_OF_BEST = 0.4
# What is nearer to the question by this cosine than a complete note, or has this share of its score, is not outdone.
NEARER = 0.05
NEARLY = 0.85
LOOSER = 1
"""What has all words within so many more sentences than the closest may say otherwise, and stays."""
MEANT = 0.4
"""Cosine of two words that may stand for each other: of random ones one pair in a thousand is as near."""
LONGEST = 8_000
"""Characters of a text that is read sentence by sentence; what documents are cut into is far shorter."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A hit, and what of its text is shown: spans of characters in order, () for all of it."""

    hit: Hit
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class _Asked:
    """The question, with its telling words and the index terms of each."""

    text: str
    words: dict[str, frozenset[str]]
    terms: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Read:
    """A hit with its sentences and the terms of the question that each of them has, and all of them together.

    `within` so many sentences on end it has nearly all that any hit has; one more than it has where nowhere.
    """

    hit: Hit
    sentences: Sequence[Sentence]
    words: Sequence[frozenset[str]]
    every: frozenset[str]
    within: int

    @property
    def parts(self) -> list[str]:
        return [self.hit.memory.text[each.start : each.end] for each in self.sentences]


def worth_showing(question: str, hits: Sequence[Hit]) -> list[Passage]:
    """Those that are likely about the question, no text twice, without the sentences that mislead.

    A complete hit has every telling word of the question that any hit has, and half of them at least. Beside it
    look-alikes only mislead: what lacks some of these words, is no more like the question and scores clearly less
    goes, unless it is trusted more. Where no hit is complete, as where several facts are asked for, all stay.
    A text of several sentences has the words that stand as close together as in the closest complete hit.
    """
    asked = _asked(question)
    reads = _all_read(hits, asked)
    every = frozenset[str]().union(*(read.every for read in reads))
    found: dict[str, _Read] = {}
    for read in reads:
        hit, covered = read.hit, _covered(read, asked)
        likely = hit.why.cosine >= LEAST_COSINE or covered >= LEAST_COVERED or hit.why.turns > 0
        if likely and hit.score >= LEAST_OF_BEST * hits[0].score:
            found.setdefault(" ".join(hit.memory.text.casefold().split()), read)
    complete = [read for read in found.values() if read.every == every and _covered(read, asked) >= LEAST_COVERED]
    closest = min((read.within for read in complete), default=0) + LOOSER
    best = [read for read in complete if read.within <= closest]
    kept = [read for read in found.values() if read in best or not _outdone(read, best, asked)]
    return [Passage(read.hit, _spans(read, asked)) for read in kept]


def _covered(read: _Read, asked: _Asked) -> float:
    return len(read.every) / len(asked.terms) if asked.terms else 0.0


def _outdone(read: _Read, best: Sequence[_Read], asked: _Asked) -> bool:
    """A neighbouring turn is no look-alike: it belongs to what it stands beside."""
    hit = read.hit
    rivals = [other for other in best if hit.trust <= other.hit.trust]
    if hit.why.turns > 0 or not rivals:
        return False
    if len(read.sentences) < 2:
        return any(
            hit.why.cosine <= other.hit.why.cosine + NEARER and hit.score < NEARLY * other.hit.score for other in rivals
        )
    least = min(other.within for other in best) + LOOSER
    return read.within > least and any(_nearest(read, asked) <= _nearest(other, asked) + NEARER for other in rivals)


def _spans(read: _Read, asked: _Asked) -> tuple[Span, ...]:
    if len(read.sentences) < 2:
        return ()
    words = _with_meant(read, asked)
    if len(frozenset[str]().union(*words)) < LEAST_COVERED * len(asked.terms):
        return ()
    return excerpt(read.sentences, words, [frozenset(terms) for terms in _words().terms(read.parts)])


def _with_meant(read: _Read, asked: _Asked) -> list[frozenset[str]]:
    """Where a word of the question is not in the text, sentences have it that have one of like meaning."""
    missing = [word for word, terms in asked.words.items() if not terms & read.every]
    if not missing:
        return list(read.words)
    wanted = np.array([_vector(word) for word in missing])
    found = []
    for part, words in zip(read.parts, read.words, strict=True):
        own = [_vector(word) for word in dict.fromkeys(_telling(part))]
        near = (np.array(own) @ wanted.T).max(axis=0) >= MEANT if own else np.zeros(len(missing), bool)
        found.append(words.union(*(asked.words[word] for word, is_near in zip(missing, near, strict=True) if is_near)))
    return found


def _nearest(read: _Read, asked: _Asked) -> float:
    """The cosine of that sentence which is nearest to the question."""
    rows = _embedder().embed([asked.text, *read.parts])
    return float((rows[1:] @ rows[0]).max())


def _all_read(hits: Sequence[Hit], asked: _Asked) -> list[_Read]:
    parts = [_sentences(hit.memory.text) for hit in hits]
    found = iter(
        _words().terms(
            hit.memory.text[each.start : each.end] for hit, own in zip(hits, parts, strict=True) for each in own
        )
    )
    words = [[asked.terms.intersection(next(found)) for _ in own] for own in parts]
    weights = rarity([here for own in words for here in own])
    least = NEARLY * sum(weights.values())
    return [
        _Read(hit, own, here, frozenset[str]().union(*here), reach(here, weights, least))
        for hit, own, here in zip(hits, parts, words, strict=True)
    ]


def _sentences(text: str) -> list[Sentence]:
    return sentences(text) if len(text) <= LONGEST else [Sentence(0, len(text))]


def _asked(question: str) -> _Asked:
    words = list(dict.fromkeys(_telling(question)))
    terms = dict(zip(words, map(frozenset, _words().terms(words)), strict=True))
    return _Asked(question, terms, frozenset[str]().union(*terms.values()))


def _telling(text: str) -> list[str]:
    return [word for word in tokens(text) or text.split() if word.casefold() not in STOP_WORDS]


@lru_cache(maxsize=20_000)
def _vector(word: str) -> Vectors:
    row: Vectors = _embedder().embed([word])[0]
    return row


@cache
def _embedder() -> StaticEmbedder:
    return StaticEmbedder()


@cache
def _words() -> Words:
    return Words()
