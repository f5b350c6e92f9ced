"""How a question is put, and so how much its words count against its meaning: keywords or a person's own words.

A question and what the words have found enter, a share leaves. It looks at the question and at ten scores, no further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import nlargest

from memory_store.plain_search import STOP_WORDS, WORD

NUMBERS = (-1.25, -1.0, 2.0, 1.0)
"""What each of `features` adds to the logit of the share: chosen by `tests.perf.memory_quality` on 5,000 questions that
nothing is judged on.
"""
LED = 10
MOST_TELLING = 16
"""Hardly one of those questions had more."""


def share(question: str, scores: Iterable[float]) -> float:
    """How much the words count, 0 to 1, the rest is left to the vectors. `scores`: of all that the words have found.

    Titles and keywords are in the words of the text, "how do I get rid of" is in a person's own: those count less. They
    count more where there are many, and where the best text stands out by them.
    """
    logit = sum(number * value for number, value in zip(NUMBERS, features(question, scores), strict=True))
    return 1 / (1 + math.exp(-logit))


def features(question: str, scores: Iterable[float]) -> tuple[float, float, float, float]:
    """One; the share of function words, 0 to 1; by how much the best score leads the tenth, or the last of fewer, 0 to
    1; the logarithm of one and the number of words that tell something.
    """
    words = WORD.findall(question.casefold())
    telling = {word for word in words if word not in STOP_WORDS}
    function = sum(word in STOP_WORDS for word in words) / max(1, len(words))
    best = nlargest(LED, scores)
    lead = 1 - best[-1] / best[0] if best and best[0] > 0 else 0.0
    return 1.0, function, lead, math.log1p(min(len(telling), MOST_TELLING))
