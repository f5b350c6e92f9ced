"""One namespace of the lexical index: which text has which term how often, and BM25 over it.

Terms enter, documents and scores leave. Frozen: adding makes a new one that shares what did not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Docs = npt.NDArray[np.int32]
Counts = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

K1 = 1.2
B = 0.75
MOST_TIMES = 255


@dataclass(frozen=True, slots=True)
class Segment:
    """Texts in rising order of their numbers. `nums` (n,) is -1 where erased; `lengths` (n,) in terms.

    The postings of the term with number t are `docs[starts[t]:starts[t + 1]]`, rising, with `times` beside them.
    """

    nums: Ints
    lengths: npt.NDArray[np.float32]
    vocabulary: dict[str, int]
    starts: Ints
    docs: Docs
    times: Counts

    def postings(self, term: str) -> tuple[Docs, Counts]:
        at = self.vocabulary.get(term)
        if at is None:
            return self.docs[:0], self.times[:0]
        part = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return self.docs[part], self.times[part]


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


def merge(parts: Sequence[Segment]) -> Segment:
    """One segment, without what was erased and without terms that only erased texts had."""
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
        for term, at in part.vocabulary.items():
            if present[at]:
                numbers[at] = vocabulary.setdefault(term, len(vocabulary))
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
    """The terms of these texts, and those of them that other living texts have too."""
    mine = np.isin(part.nums, nums)[part.docs]
    others = ~mine & (part.nums >= 0)[part.docs]
    counts = [np.add.reduceat(np.append(hit, False), part.starts[:-1]) > 0 for hit in (mine, others)]
    names = list(part.vocabulary)
    own = np.flatnonzero(counts[0]) if len(names) else np.zeros(0, np.int64)
    return {names[at] for at in own.tolist()}, {names[at] for at in own.tolist() if counts[1][at]}


def without(part: Segment, gone: Ints) -> Segment:
    """The segment made anew where it has one of these numbers."""
    hit = np.isin(part.nums, gone)
    if not hit.any():
        return part
    nums = np.where(hit, -1, part.nums)
    return merge([Segment(nums, part.lengths, part.vocabulary, part.starts, part.docs, part.times)])


def search(segments: Sequence[Segment], terms: Sequence[str], k: int) -> tuple[Ints, Scores]:
    """The exact best `k` by BM25, equal scores by number. Rare terms first: what frequent ones cannot lift is left out.

    MaxScore (Turtle and Flood 1995), term by term.
    """
    total = sum(int((part.nums >= 0).sum()) for part in segments)
    mean = sum(float(part.lengths[part.nums >= 0].sum()) for part in segments) / max(1, total)
    weights = _weights(segments, terms, total)
    found = [_best(part, weights, mean, k) for part in segments]
    nums = np.concatenate([numbers for numbers, _ in found]) if found else np.zeros(0, np.int64)
    scores = np.concatenate([values for _, values in found]) if found else np.zeros(0, np.float32)
    order = np.lexsort((nums, -scores))[:k]
    return nums[order], scores[order]


def _weights(segments: Sequence[Segment], terms: Sequence[str], total: int) -> list[tuple[str, float]]:
    weighed = []
    for term in dict.fromkeys(terms):
        frequency = sum(len(part.postings(term)[0]) for part in segments)
        if frequency:
            weighed.append((term, float(np.log1p(max(0.0, total - frequency + 0.5) / (frequency + 0.5)))))
    return sorted(weighed, key=lambda item: (-item[1], item[0]))


def _best(part: Segment, weights: list[tuple[str, float]], mean: float, k: int) -> tuple[Ints, Scores]:
    if not len(part.nums):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    scores = np.zeros(len(part.nums), np.float32)
    most = [weight * (K1 + 1) for _, weight in weights]
    found: list[Docs] = []
    candidates: Docs | None = None
    for at, (term, weight) in enumerate(weights):
        docs, times = part.postings(term)
        if len(docs) > 4 * k:
            candidates = _hopeful(scores, found, candidates, sum(most[at:]), k)
        if candidates is not None:
            if not len(docs):
                continue
            where = np.minimum(np.searchsorted(docs, candidates), len(docs) - 1)
            hit = docs[where] == candidates
            docs, times = candidates[hit], times[where[hit]]
        else:
            found.append(docs[scores[docs] == 0])
        often = times.astype(np.float32)
        scores[docs] += weight * (K1 + 1) * often / (often + K1 * (1 - B) + (K1 * B / mean) * part.lengths[docs])
    candidates = np.concatenate([np.zeros(0, np.int32), *found]) if candidates is None else candidates
    candidates = candidates[part.nums[candidates] >= 0]
    values = scores[candidates]
    if len(values) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        candidates = candidates[values >= least]
    return part.nums[candidates], scores[candidates]


def _hopeful(scores: Scores, found: list[Docs], before: Docs | None, rest: float, k: int) -> Docs | None:
    """The documents that may still be among the best `k` if the terms left give `rest` at most; None: any may be."""
    if sum(map(len, found)) < k or (before is not None and len(before) <= 4 * k):
        return before
    known = np.concatenate(found) if before is None else before
    values = scores[known]
    least = np.partition(values, len(values) - k)[len(values) - k]
    if before is None and least <= rest:
        return None
    # In rising order: that is how they are looked up in postings.
    kept = known[values >= least - rest]
    return np.sort(kept) if before is None else kept
