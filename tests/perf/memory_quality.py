"""Retrieval quality on real text: hybrid recall as served against its halves, on questions that chose nothing.

    python -m tests.perf.memory_quality [--questions 3000] [--manual FOLDER ...] [--python-html FOLDER] [--out FILE]

Judged: manual pages of section 1 (the NAME line asks), Python's docstrings and, where its HTML is, its library
reference (the first sentence asks for the rest), and two series of `paraphrases`. What `wording.share` is made of is
chosen on sections 2 to 8, docstrings of installed packages and one series; it judges the rest, and the other way round.
Intervals are of 2,000 paired bootstrap draws over questions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store import rank, wording
from memory_store.lexical import LexicalIndex
from memory_store.recall import POOL, Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store
from tests.perf import paraphrases
from tests.perf.real_text import MANUAL, Text, docstrings, manual_pages, modules_of, reference, standard_modules

Floats = npt.NDArray[np.float64]
Asked = tuple[str, frozenset[int]]
"""A question and the places of the texts that answer it."""

SHARES = np.round(np.arange(0, 1.01, 0.05), 2)
GRID = (np.arange(-2.5, 0.1, 0.25), np.arange(-3, 0.1, 0.5), np.arange(1, 4.1, 0.5), np.arange(0, 1.6, 0.5))
"""Of `wording.NUMBERS`."""
ALIKE = [(float(logit), 0.0, 0.0, 0.0) for logit in np.arange(-2, 3.1, 0.25)]
ENOUGH = 3.0
"""Standard errors of a gain; more on one text makes up for no loss on another."""
PACKAGES = ("numpy", "textual", "rich", "click", "pydantic", "hypothesis", "huggingface_hub", "networkx", "scipy")
DRAWS = 2000
SERVED = 200


@dataclass(frozen=True, slots=True)
class Corpus:
    """`part`: "chooses", "judged", or of paraphrases "first" or "second"."""

    name: str
    texts: Sequence[str]
    asked: Sequence[Asked]
    part: str


def corpora(options: argparse.Namespace) -> Iterator[Corpus]:
    def pages(sections: str) -> list[Text]:
        return list(manual_pages([folder / f"man{n}" for n in sections for folder in (MANUAL, *options.manual)]))

    most, dice = options.questions, random.Random(options.seed)
    commands, python = pages("1"), list(docstrings(standard_modules()))
    manual = list(reference(options.python_html)) if options.python_html else []
    yield _own("manual pages, sections 2 to 8", pages("2345678"), most, dice, "chooses")
    yield _own("docstrings of packages", list(docstrings(modules_of(PACKAGES))), most, dice, "chooses")
    yield _own("manual pages", commands, most, dice, "judged")
    yield _own("Python docstrings", python, most, dice, "judged")
    yield _own("Python reference", manual, most, dice, "judged")
    for series in ("first", "second"):
        yield _paraphrased("paraphrases, manual pages", commands, "commands", series)
        yield _paraphrased("paraphrases, Python docstrings", python, "python", series)
        yield _paraphrased("paraphrases, Python reference", manual, "python", series)


def _own(name: str, texts: Sequence[Text], most: int, dice: random.Random, part: str) -> Corpus:
    picked = dice.sample(range(len(texts)), min(most, len(texts)))
    asked = [(texts[n].question, frozenset([n])) for n in picked]
    return Corpus(name, [text.text for text in texts], asked, part)


def _paraphrased(name: str, texts: Sequence[Text], what: str, series: str) -> Corpus:
    """Questions whose answer this machine has not are left out."""
    found = [
        (question, frozenset(n for n, text in enumerate(texts) if text.name in names))
        for question, names in paraphrases.asked(what, series)
    ]
    return Corpus(name, [text.whole for text in texts], [each for each in found if each[1]], series)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both searches found for one question, cosines completed; `answers` are the right numbers."""

    question: str
    words: dict[int, float]
    vectors: dict[int, float]
    answers: frozenset[int]

    def fused(self, share: float) -> int | None:
        """The place of the first right one; 0 and 1 are one search alone."""
        words = self.words if share > 0 else {}
        vectors = self.vectors if share < 1 else {}
        return self.place(rank.order(rank.fuse(words, vectors, share))[:POOL])

    def place(self, ranked: Sequence[int]) -> int | None:
        return next((place for place, num in enumerate(ranked, 1) if num in self.answers), None)


@dataclass(frozen=True, slots=True)
class Found:
    """Of one corpus; `features` (question, feature) of `wording`; `served` is what Recall itself gave for the first."""

    corpus: Corpus
    candidates: list[Candidates]
    features: Floats
    served: list[int | None]


def searched(corpus: Corpus, path: Path) -> Found:
    store = Store(path, clock=lambda: 0.0)
    numbers: list[int] = []
    for start in range(0, len(corpus.texts), 256):
        batch = [NewMemory(text=text, id=str(start + n)) for n, text in enumerate(corpus.texts[start : start + 256])]
        numbers += [added.num for added in store.add_many(batch)]
    index, matrix = LexicalIndex(store), store.embedder.embed(corpus.texts)
    rows = {num: row for row, num in enumerate(numbers)}
    found, served = [], list[int | None]()
    recall = Recall(store, words=index)
    for place, (question, right) in enumerate(corpus.asked):
        nums, scores = index.search("default", question, POOL)
        by_words = dict(zip(nums.tolist(), scores.tolist(), strict=True))
        cosines = matrix @ store.embedder.embed([question])[0]
        near = [numbers[row] for row in np.argsort(-cosines, kind="stable")[:POOL]]
        by_vector = {num: float(cosines[rows[num]]) for num in {*near, *by_words}}
        answers = frozenset(numbers[n] for n in right)
        found.append(Candidates(question, by_words, by_vector, answers))
        if place < SERVED:
            hits = recall.search(Question(text=question))
            served.append(found[-1].place([hit.memory.num for hit in hits]))
    index.close()
    store.close()
    features = np.array([wording.features(each.question, each.words.values()) for each in found])
    return Found(corpus, found, features, served)


def recall_at_10(place: int | None) -> float:
    return float(place is not None and place <= 10)


def ndcg_at_10(place: int | None) -> float:
    """Of the first right text; questions that have several are worth no more."""
    return 1 / np.log2(place + 1) if place is not None and place <= 10 else 0.0


def interval(values: Floats, seed: int = 7) -> tuple[float, float, float]:
    """Mean with the 2.5 and 97.5 % points of its bootstrap."""
    dice = np.random.default_rng(seed)
    means = np.array([values[dice.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)])
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


METRICS = (("recall@10", recall_at_10), ("nDCG@10", ndcg_at_10))


def scored(found: Found, shares: Floats) -> Floats:
    """(2, questions): recall@10 and nDCG@10 of each, with a share of the words for each."""
    places = [each.fused(float(share)) for each, share in zip(found.candidates, shares, strict=True)]
    return np.array([[score(place) for place in places] for _, score in METRICS])


def shares_by(numbers: Sequence[float], features: Floats) -> Floats:
    shares: Floats = 1 / (1 + np.exp(-(features @ np.array(numbers))))
    return shares


def judged(parts: Sequence[tuple[Found, Sequence[float]]]) -> tuple[dict[str, object], dict[str, Floats]]:
    """What is told of one corpus, and by how much the hybrid is better, by question.

    `parts`: of its questions, each with numbers that they did not choose.
    """

    def every(shares: Callable[[Found, Sequence[float]], Floats]) -> Floats:
        return np.concatenate([scored(found, shares(found, numbers)) for found, numbers in parts], axis=1)

    hybrid = every(lambda found, numbers: shares_by(numbers, found.features))
    alone = {
        way: every(lambda found, _, share=share: np.full(len(found.candidates), share))  # type: ignore[misc]
        for way, share in (("lexical", 1.0), ("vectors", 0.0))
    }
    better = {f"less {way}": hybrid - values for way, values in alone.items()}
    told: dict[str, object] = {"texts": len(parts[0][0].corpus.texts), "questions": hybrid.shape[1]}
    for number, (metric, _) in enumerate(METRICS):
        told[metric] = {way: interval(values[number]) for way, values in (alone | {"hybrid": hybrid} | better).items()}
    served = [place for found, _ in parts for place in found.served]
    told[f"recall@10 of Recall.search, first {len(served)}"] = float(np.mean([recall_at_10(p) for p in served]))
    return told, better


def pooled(better: Sequence[dict[str, Floats]]) -> dict[str, object]:
    """Each corpus weighing the same, and each question."""
    told: dict[str, object] = {"questions": sum(each["less lexical"].shape[1] for each in better)}
    for (number, (metric, _)), way in itertools.product(enumerate(METRICS), ("less lexical", "less vectors")):
        values = [each[way][number] for each in better]
        dice = np.random.default_rng(7)
        drawn = [[part[dice.integers(0, len(part), len(part))].mean() for part in values] for _ in range(DRAWS)]
        low, high = np.quantile(np.mean(drawn, axis=1), (0.025, 0.975))
        mean = float(np.mean([part.mean() for part in values]))
        told[f"{metric}, {way}, by corpus"] = round(mean, 4), round(float(low), 4), round(float(high), 4)
        told[f"{metric}, {way}, by question"] = interval(np.concatenate(values))
    return told


def chosen(found: Sequence[Found]) -> tuple[tuple[float, ...], dict[str, object]]:
    """The best of GRID, and what it and the numbers that serve are worth."""
    tables = [np.array([scored(each, np.full(len(each.candidates), share)) for share in SHARES]) for each in found]
    rows = [each.features for each in found]

    def worth(numbers: Sequence[float]) -> float:
        return round(sum(map(partial(errors, numbers), tables, rows)), 2)

    best = tuple(map(float, max(itertools.product(*GRID), key=worth)))
    told = {"best": best, "that serve": wording.NUMBERS, "one share for all": max(ALIKE, key=worth)}
    questions = sum(len(each.candidates) for each in found)
    return best, {"questions": questions, **{name: {"numbers": n, "worth": worth(n)} for name, n in told.items()}}


def errors(numbers: Sequence[float], table: Floats, features: Floats) -> float:
    """By how many standard errors both metrics are above words and vectors alone, at most ENOUGH each, summed up.

    `table`: (share, metric, question).
    """
    places = np.rint(shares_by(numbers, features) * (len(SHARES) - 1)).astype(int)
    mine = table[places, :, np.arange(len(features))].T
    gains = np.array([mine - table[-1], mine - table[0]])
    error = gains.std(axis=2) / np.sqrt(len(features)) + 1e-9
    return float(np.minimum(gains.mean(axis=2) / error, ENOUGH).sum())


def found_in(options: argparse.Namespace) -> list[Found]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, corpus in enumerate(corpora(options)):
            if len(corpus.asked) < 50:
                print(f"{corpus.name}: only {len(corpus.asked)} questions here, left out")
            else:
                found.append(searched(corpus, Path(folder) / f"{number}.db"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--manual", type=Path, nargs="*", default=[], help="More folders like /usr/share/man.")
    parser.add_argument("--python-html", type=Path, help="The folder `library` of Python's documentation in HTML.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = found_in(options)
    by_part = {part: [each for each in found if each.corpus.part == part] for part in ("chooses", "first", "second")}
    numbers: dict[str, Sequence[float]] = {"judged": wording.NUMBERS}
    results: dict[str, object] = {}
    for chooses, other in (("first", "second"), ("second", "first")):
        numbers[other], results[f"chosen with the {chooses} series"] = chosen(by_part["chooses"] + by_part[chooses])
    better: list[dict[str, Floats]] = []
    for name in dict.fromkeys(each.corpus.name for each in found if each.corpus.part != "chooses"):
        told, gains = judged([(each, numbers[each.corpus.part]) for each in found if each.corpus.name == name])
        better.append(gains)
        results[name] = told
    results["pooled"] = pooled(better)
    print(json.dumps(results, indent=1))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
