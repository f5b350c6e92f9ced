"""One namespace of the lexical index: which text has which term how often, and BM25 over it.

Terms enter, documents and scores leave. Frozen: adding makes a new one that shares what did not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
# In postings: what is scored in one step, what pruning must spare at least to be worth its cost, and how many cost what
# looking up one document does.
TOGETHER = 8192
WORTH_PRUNING = 32_768
CHEAPER = 5
# A pass over all documents costs what so many times fewer postings do.
PASSES = 16
# Heaps of documents for each hit, by whose highest one tells how high the hits are.
HEAPS = 8
# What is left may give a little more than its sum: float32 rounds.
SLACK = 1.0001


@dataclass(frozen=True, slots=True)
class Segment:
    """Texts in rising order of their numbers. `nums` (n,) is -1 where erased; `lengths` (n,) in terms, `words` in all.

    The postings of the term with number t are `docs[starts[t]:starts[t + 1]]`, rising, with `times` beside them.
    """

    nums: Ints
    lengths: npt.NDArray[np.float32]
    vocabulary: dict[str, int]
    starts: Ints
    docs: Docs
    times: Counts
    words: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", float(self.lengths.sum(dtype=np.float64)))

    def run(self, term: str) -> slice:
        """Where the postings of the term are; empty for an unknown one."""
        at = self.vocabulary.get(term)
        return slice(0, 0) if at is None else slice(int(self.starts[at]), int(self.starts[at + 1]))


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

    MaxScore (Turtle and Flood 1995), several short lists of postings in one step.
    """
    total = sum(len(part.nums) for part in segments)
    mean = sum(part.words for part in segments) / max(1, total)
    weights = _weights(segments, terms, total)
    found = [_best(part, weights, mean, k) for part in segments]
    nums = np.concatenate([numbers for numbers, _ in found]) if found else np.zeros(0, np.int64)
    scores = np.concatenate([values for _, values in found]) if found else np.zeros(0, np.float32)
    order = np.lexsort((nums, -scores))[:k]
    return nums[order], scores[order]


def _weights(segments: Sequence[Segment], terms: Sequence[str], total: int) -> list[tuple[str, float]]:
    weighed = []
    for term in dict.fromkeys(terms):
        frequency = sum(run.stop - run.start for run in (part.run(term) for part in segments))
        if frequency:
            weighed.append((term, float(np.log1p(max(0.0, total - frequency + 0.5) / (frequency + 0.5)))))
    return sorted(weighed, key=lambda item: (-item[1], item[0]))


def _best(part: Segment, weights: list[tuple[str, float]], mean: float, k: int) -> tuple[Ints, Scores]:
    runs = [(run, weight) for term, weight in weights if (run := part.run(term)).stop > run.start]
    scores = np.zeros(len(part.nums), np.float32)
    left, rest = sum(run.stop - run.start for run, _ in runs), sum(weight for _, weight in runs) * (K1 + 1)
    gained, hopeful = 0.0, None
    for group in _groups(runs):
        if hopeful is None and gained > rest and left > max(WORTH_PRUNING, len(scores) // PASSES):
            hopeful = _hopeful(scores, rest, k)
        for step in [group] if hopeful is None else [[one] for one in group]:
            size, most = sum(run.stop - run.start for run, _ in step), sum(weight for _, weight in step) * (K1 + 1)
            if hopeful is None or size < CHEAPER * len(hopeful):
                _add(part, scores, step, mean)
            else:
                hopeful = _fewer(scores, hopeful, rest, k)
                _add_to(part, scores, hopeful, step[0], mean)
            gained, left, rest = gained + most, left - size, rest - most
    found = _upper(scores, k) if hopeful is None else hopeful
    found = found[scores[found] >= _least(scores[found], k)]
    return part.nums[found], scores[found]


_Run = tuple[slice, float]


def _groups(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Neighbours together until they are long enough that a step over them costs more than beginning it."""
    group: list[_Run] = []
    held = 0
    for run in runs:
        group.append(run)
        held += run[0].stop - run[0].start
        if held >= TOGETHER:
            yield group
            group, held = [], 0
    if group:
        yield group


def _add(part: Segment, scores: Scores, runs: list[_Run], mean: float) -> None:
    if len(runs) == 1:
        run, weight = runs[0]
        docs = part.docs[run].astype(np.intp)
        # A term has a document once.
        scores[docs] += np.float32(weight) * _tf(part.times[run], part.lengths[docs], mean)
        return
    docs = np.concatenate([part.docs[run] for run, _ in runs]).astype(np.intp)
    times = np.concatenate([part.times[run] for run, _ in runs])
    weights = np.repeat(np.array([weight for _, weight in runs], np.float32), [run.stop - run.start for run, _ in runs])
    weights *= _tf(times, part.lengths[docs], mean)
    # In the order of the terms, one after the other: a sum does not depend on what was taken together.
    np.add.at(scores, docs, weights)


def _add_to(part: Segment, scores: Scores, docs: Places, run: _Run, mean: float) -> None:
    """As `_add`, for these documents only."""
    listed = part.docs[run[0]]
    where = np.minimum(np.searchsorted(listed, docs.astype(np.int32)), len(listed) - 1)
    hit = listed[where] == docs
    mine = docs[hit]
    scores[mine] += np.float32(run[1]) * _tf(part.times[run[0]][where[hit]], part.lengths[mine], mean)


def _tf(times: Counts, lengths: Scores, mean: float) -> Scores:
    often = times.astype(np.float32)
    below = lengths * np.float32(K1 * B / mean)
    below += often
    below += np.float32(K1 * (1 - B))
    often *= np.float32(K1 + 1)
    often /= below
    return often


def _hopeful(scores: Scores, rest: float, k: int) -> Places | None:
    """The documents that may still be among the best `k` if the terms left give `rest` at most; None: any may be."""
    least = _at_least(scores, k)
    return np.flatnonzero(scores >= least - rest * SLACK) if least > rest * SLACK else None


def _fewer(scores: Scores, before: Places, rest: float, k: int) -> Places:
    """Those of them that may still be."""
    if len(before) <= 4 * k:
        return before
    return before[scores[before] >= _least(scores[before], k) - rest * SLACK]


def _upper(scores: Scores, k: int) -> Places:
    """All that are above 0, or as few of the higher ones as are quickly told and hold the best `k`."""
    least = _at_least(scores, k)
    return np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores > 0)


def _at_least(scores: Scores, k: int) -> float:
    """Not above the `k`th highest, and mostly near it: as many heaps have a member at least so high."""
    heaps = HEAPS * k
    depth = len(scores) // heaps
    if depth < 2:
        return _least(scores, k)
    return _least(scores[: depth * heaps].reshape(depth, heaps).max(axis=0), k)


def _least(values: Scores, k: int) -> float:
    """The `k`th highest; 0 where there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0
