"""What of a text to show for a question: all of it, but for sentences that tell the same of other things.

Sentences with the question's words in each enter, spans of characters leave. Pure; knows nothing of memories.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from memory_store.sentences import Sentence

Span = tuple[int, int]
"""Characters from the first to before the second."""
Words = Sequence[frozenset[str]]
"""Of each sentence, the words of the question that it has, or all that it has."""

STRONG = 0.7
"""What has this share of the strongest sentence's weight is asked for too. Words of few sentences weigh more."""
FEWEST = 2
"""So many sentences on other things make a paragraph of look-alikes; a single one may be of the same thing."""
ALIKE = 0.25
"""Share of their words that two sentences have in common which tell the same of two things; in prose a tenth."""


def excerpt(sentences: Sequence[Sentence], words: Words, terms: Words) -> tuple[Span, ...]:
    """Spans in order, () for the whole text. `terms` are all those of each sentence.

    Out goes what has fewer of the question's words than a sentence that is asked for, no other ones, and is like it;
    and what follows it, which would be taken for the other's. Nothing goes where a word of the question would be lost.
    """
    asked = _asked(words)
    strange = {place for place in range(len(words)) if _strange(place, asked, words, terms)}
    if len(strange) < FEWEST:
        return ()
    kept = _around(sentences, asked, strange)
    if frozenset[str]().union(*words) > frozenset[str]().union(*(words[place] for place in kept)):
        return ()
    runs = _runs(kept)
    return tuple((sentences[first].start, sentences[last].end) for first, last in runs)


def reach(words: Words, weights: Mapping[str, float], least: float) -> int:
    """In how few sentences on end do the different words weigh `least`? One more than there are where in none."""
    found, first = len(words) + 1, 0
    held = Counter[str]()
    for last, here in enumerate(words):
        held.update(here)
        while first <= last and sum(weights[word] for word, times in held.items() if times > 0) >= least:
            found = min(found, last - first + 1)
            held.subtract(words[first])
            first += 1
    return found


def rarity(words: Words) -> dict[str, float]:
    """The weight of each word: what few of these sentences have tells more."""
    count = Counter(word for here in words for word in here)
    return {word: math.log1p(len(words) / times) for word, times in count.items()}


def _asked(words: Words) -> list[int]:
    """Sentences with the telling words of the question, none of which has all of another's and more.

    Several with the very same words do not tell which of them is meant, where another sentence does.
    """
    weights = rarity(words)
    weight = [sum(weights[word] for word in here) for here in words]
    strong = [at for at, each in enumerate(weight) if each and each >= STRONG * max(weight)]
    found = [at for at in strong if not any(words[at] < words[other] for other in strong)]
    alone = [at for at in found if words.count(words[at]) == 1]
    return alone or found


def _strange(place: int, asked: Sequence[int], words: Words, terms: Words) -> bool:
    return any(words[place] < words[at] and _common(terms[place], terms[at]) >= ALIKE for at in asked)


def _common(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _around(sentences: Sequence[Sentence], asked: Sequence[int], strange: set[int]) -> list[int]:
    """With what follows up to something strange, what precedes where that is not, and the head of a list."""
    kept = set[int]()
    for place in asked:
        last = place
        while last + 1 < len(sentences) and last + 1 not in strange:
            last += 1
        first = 0 if min(strange) > place else place
        kept.update(range(first, last + 1))
        head = first
        while head > 0 and sentences[head].item:
            head -= 1
        kept |= {head} - {at for at in (head,) if sentences[at].item}
    return sorted(kept)


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    steps = np.flatnonzero(np.diff(places) > 1)
    firsts, lasts = [0, *(steps + 1)], [*steps, len(places) - 1]
    return [(places[first], places[last]) for first, last in zip(firsts, lasts, strict=True)]
