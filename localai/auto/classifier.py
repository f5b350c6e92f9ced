"""Of which category of the benchmark a query is, with calibrated probabilities; anything unlike them is `other`.

Multinomial naive Bayes (McCallum and Nigam, 1998) on words and shapes, each counted once, with the log-odds tempered
(Guo et al., 2017) on manners of asking that were held out. Numpy only; trained from `phrasings` in well under a second.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from localai.auto.phrasings import CATEGORIES, ELSE, drawn

_HEAD, _TAIL = 200, 500
"""Characters that are looked at, from the beginning and, most telling, from the end."""
_SURE = 0.6
"""Below this probability a query counts as `other`."""
_SMOOTH = 0.2
_EACH = 300
_PIECE = re.compile(r"```|->|[A-Za-z]+|\d+|[^\sA-Za-z\d]")
_TEMPERATURES = np.geomspace(0.3, 8.0, 40)

Floats = NDArray[np.float64]
_Read = tuple[set[str], int, int]
"""Features, category and frame of a text."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Probabilities by category that sum to 1; `category` is the likeliest where that is sure, else `other`."""

    category: str
    probability: float
    mix: dict[str, float]


class Classifier:
    """`guess` may be called from several threads."""

    def __init__(self, vocabulary: dict[str, int], weights: Floats, temperature: float) -> None:
        """`weights` are log-probabilities of shape (features, categories)."""
        self._vocabulary = vocabulary
        self._weights = weights
        self._temperature = temperature

    def guess(self, text: str) -> Guess:
        """Classify the last thing that was said."""
        shares = self._shares(text)
        best = int(np.argmax(shares))
        name, probability = CATEGORIES[best], float(shares[best])
        mix = {name: float(share) for name, share in zip(CATEGORIES, shares, strict=True)}
        if name == ELSE or probability < _SURE:
            return Guess(ELSE, mix[ELSE], {})
        mix.pop(ELSE)
        return Guess(name, probability, mix)

    def _shares(self, text: str) -> Floats:
        return _softmax(self.odds(features(text)) / self._temperature)

    def odds(self, found: Iterable[str]) -> Floats:
        """Untempered log-odds of a text with these features."""
        known = [place for feature in found if (place := self._vocabulary.get(feature)) is not None]
        if not known:
            return np.where(np.array(CATEGORIES) == ELSE, 0.0, -3.0 * self._temperature)
        # Features of one text depend on each other: their sum says less than it seems, the more so the more there are.
        odds: Floats = self._weights[known].sum(axis=0) / math.sqrt(len(known))
        return odds


@cache
def trained() -> Classifier:
    """The classifier, made at the first call: tempered on held-out manners of asking, learned from all."""
    texts = [(features(text.text), CATEGORIES.index(text.category), text.frame) for text in drawn(0, _EACH)]
    draft = _learned([text for text in texts if text[2] % 5])
    held = [text for text in texts if not text[2] % 5]
    odds = np.array([draft.odds(found) for found, _, _ in held])
    gold = (np.arange(len(held)), np.array([category for _, category, _ in held]))
    losses = [-np.log(_softmax(odds / t)[gold] + 1e-9).mean() for t in _TEMPERATURES]
    return _learned(texts, float(_TEMPERATURES[int(np.argmin(losses))]))


def features(text: str) -> set[str]:
    """Words, pairs of words, and the shapes of numbers and signs in what is looked at."""
    shown = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n{text[-_TAIL:]}"
    pieces = [f"#{min(len(p), 5)}" if p.isdigit() else p.lower() for p in _PIECE.findall(shown)]
    found = set(pieces) | {f"{a} {b}" for a, b in pairwise(pieces)}
    last = pieces[-3:]
    found |= {f"$ {piece}" for piece in last}
    found.add(f"lines {min(5, shown.count(chr(10)))}")
    found.add(f"digits {min(6, sum(p.startswith('#') for p in pieces))}")
    return found


def _learned(texts: Sequence[_Read], temperature: float = 1.0) -> Classifier:
    counts = Counter(feature for found, _, _ in texts for feature in found)
    # What stands in one text alone tells nothing of another.
    vocabulary = {feature: place for place, feature in enumerate(f for f, count in counts.items() if count > 2)}
    table = np.full((len(vocabulary), len(CATEGORIES)), _SMOOTH)
    for found, category, _ in texts:
        table[[vocabulary[feature] for feature in found if feature in vocabulary], category] += 1
    return Classifier(vocabulary, np.log(table / table.sum(axis=0)), temperature)


def _softmax(odds: Floats) -> Floats:
    powers = np.exp(odds - odds.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares
