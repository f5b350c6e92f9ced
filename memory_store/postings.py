"""One namespace of the lexical index: which text has which term how often, and what that is worth to BM25.

Terms of texts enter, lists of documents and their impacts leave. Frozen: adding makes a new one that shares what did
not change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Docs = npt.NDArray[np.int32]
Places = npt.NDArray[np.intp]
Counts = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

K1 = 1.2
B = 0.75
MOST_TIMES = 255
# What an impact of 255 stands for: no number of occurrences is worth more.
FULL = K1 + 1
# Mean lengths are told apart by 4 %: the impacts of all postings need not be made anew with each text.
PIVOTS_PER_DOUBLING = 16
# Of terms that one in so many texts has, the impacts are laid out by text as well: adding up a byte for every text is
# faster then than looking up who has the term.
OFTEN = 6
LEAST_TEXTS = 65_536
# Postings that get their impacts in one step.
TOGETHER = 1 << 20
TERMS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """Texts in rising order of their numbers. `nums` (n,) is -1 where erased; `lengths` (n,) in terms, `words` in all.

    The postings of the term with number t are `docs[starts[t]:starts[t + 1]]`, rising, with `times` beside them, and,
    made by `weighed` for the mean length `pivot`, `impacts`: how much a term so often in a text so long adds, 1 to 255.
    `spread` has those of the most frequent terms as (n,), 0 where a text has not the term.
    """

    nums: Ints
    lengths: npt.NDArray[np.float32]
    vocabulary: dict[str, int]
    starts: Ints
    docs: Docs
    times: Counts
    impacts: Counts = field(default_factory=lambda: np.zeros(0, np.uint8))
    pivot: float = 0.0
    spread: dict[int, Counts] = field(default_factory=dict)
    words: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", float(self.lengths.sum(dtype=np.float64)))

    def run(self, term: str) -> slice:
        """Where the postings of the term are; empty for an unknown one."""
        at = self.vocabulary.get(term)
        return slice(0, 0) if at is None else slice(int(self.starts[at]), int(self.starts[at + 1]))

    def spread_of(self, term: str) -> Counts | None:
        return self.spread.get(self.vocabulary.get(term, -1))


def segment(nums: Sequence[int], texts: Sequence[list[str]]) -> Segment:
    """From the terms of texts."""
    vocabulary: dict[str, int] = {}
    ids: list[int] = []
    docs: list[int] = []
    times: list[int] = []
    for doc, terms in enumerate(texts):
        counted = Counter(terms)
        ids += [vocabulary.setdefault(term, len(vocabulary)) for term in counted]
        docs += [doc] * len(counted)
        times += [min(MOST_TIMES, count) for count in counted.values()]
    owner = np.array(ids, np.int64)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(vocabulary) + 1)).astype(np.int64)
    lengths = np.array([len(terms) for terms in texts], np.float32)
    numbers, counts = np.array(docs, np.int32)[order], np.array(times, np.uint8)[order]
    return Segment(np.array(nums, np.int64), lengths, vocabulary, starts, numbers, counts)


def sound(part: Segment) -> bool:
    """Do its arrays fit each other, so that no search can leave them?"""
    nums, starts, docs = part.nums, part.starts, part.docs
    if len(nums) != len(part.lengths) or len(starts) != len(part.vocabulary) + 1:
        return False
    if starts[0] != 0 or starts[-1] != len(docs) or len(docs) != len(part.times) or (np.diff(starts) < 0).any():
        return False
    if len(docs) and not 0 <= docs.min() <= docs.max() < len(nums):
        return False
    return bool((np.diff(nums[nums >= 0]) > 0).all())


def merge(parts: Sequence[Segment], pause: Callable[[], None] = lambda: None) -> Segment:
    """One segment, without what was erased and without terms that only erased texts had.

    `pause` is called every few hundred microseconds.
    """
    kept = [part.nums >= 0 for part in parts]
    before = np.cumsum([0, *(int(alive.sum()) for alive in kept)])
    vocabulary: dict[str, int] = {}
    owners, docs, times = [], [], []
    for part, alive, first in zip(parts, kept, before.tolist(), strict=False):
        moved = np.cumsum(alive) - 1 + first
        mine = alive[part.docs]
        local = np.repeat(np.arange(len(part.vocabulary)), np.diff(part.starts))[mine]
        present = np.zeros(len(part.vocabulary), np.bool_)
        present[local] = True
        numbers = np.full(len(part.vocabulary), -1, np.int64)
        terms = iter(part.vocabulary.items())
        while some := tuple(islice(terms, TERMS_AT_ONCE)):
            for term, at in some:
                if present[at]:
                    numbers[at] = vocabulary.setdefault(term, len(vocabulary))
            pause()
        owners.append(numbers[local])
        docs.append(moved[part.docs[mine]].astype(np.int32))
        times.append(part.times[mine])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(vocabulary) + 1)).astype(np.int64)
    nums = np.concatenate([part.nums[alive] for part, alive in zip(parts, kept, strict=True)])
    lengths = np.concatenate([part.lengths[alive] for part, alive in zip(parts, kept, strict=True)])
    return Segment(nums, lengths, vocabulary, starts, np.concatenate(docs)[order], np.concatenate(times)[order])


def terms_of(part: Segment, nums: Ints) -> tuple[set[str], set[str]]:
    """The terms of these texts, and those of all other living texts."""
    mine = np.isin(part.nums, nums)[part.docs]
    others = ~mine & (part.nums >= 0)[part.docs]
    counts = [np.add.reduceat(np.append(hit, False), part.starts[:-1]) > 0 for hit in (mine, others)]
    names = list(part.vocabulary)
    if not names:
        return set(), set()
    own, living = ({names[at] for at in np.flatnonzero(count).tolist()} for count in counts)
    return own, living


def without(part: Segment, gone: Ints) -> Segment:
    """The segment made anew where it has one of these numbers."""
    hit = np.isin(part.nums, gone)
    if not hit.any():
        return part
    nums = np.where(hit, -1, part.nums)
    return merge([Segment(nums, part.lengths, part.vocabulary, part.starts, part.docs, part.times)])


def weighed(parts: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments of a namespace with impacts for the mean length of all their texts."""
    texts = sum(len(part.nums) for part in parts)
    mean = sum(part.words for part in parts) / max(1, texts)
    pivot = 2 ** (round(PIVOTS_PER_DOUBLING * math.log2(max(1.0, mean))) / PIVOTS_PER_DOUBLING)
    return tuple(part if part.pivot == pivot else _weighed(part, pivot) for part in parts)


def _weighed(part: Segment, pivot: float) -> Segment:
    """Robertson's saturation, which is what BM25 multiplies a term's weight with, rounded to a byte."""
    impacts = np.empty(len(part.docs), np.uint8)
    longer = part.lengths * np.float32(K1 * B / pivot) + np.float32(K1 * (1 - B))
    for start in range(0, len(impacts), TOGETHER):
        here = slice(start, start + TOGETHER)
        often = part.times[here].astype(np.float32)
        worth = often / (often + longer[part.docs[here]]) * np.float32(255)
        impacts[here] = np.maximum(np.rint(worth, out=worth), 1)
    return replace(part, impacts=impacts, pivot=pivot, spread=_spread(part, impacts))


def _spread(part: Segment, impacts: Counts) -> dict[int, Counts]:
    texts = len(part.nums)
    if texts < LEAST_TEXTS:
        return {}
    found = {}
    for term in np.flatnonzero(np.diff(part.starts) >= texts / OFTEN).tolist():
        run = slice(int(part.starts[term]), int(part.starts[term + 1]))
        found[term] = np.zeros(texts, np.uint8)
        found[term][part.docs[run]] = impacts[run]
    return found
