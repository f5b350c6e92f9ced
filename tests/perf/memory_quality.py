"""Retrieval quality on real text: hybrid recall as served against its halves, on text that its weights never saw.

    python -m tests.perf.memory_quality [--questions 3000] [--manual FOLDER ...] [--python-html FOLDER] [--out FILE]

Judged: manual pages of section 1 (the NAME line asks), Python's docstrings and, where its HTML is, its library
reference (the first sentence asks for the rest), and `paraphrases`. The share of the words is chosen on other text:
sections 2 to 8 and the docstrings of installed packages. Intervals are of 2,000 paired bootstrap draws over questions.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store import rank
from memory_store.lexical import LexicalIndex
from memory_store.rank import Weights
from memory_store.recall import POOL, Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store
from tests.perf import paraphrases
from tests.perf.real_text import MANUAL, Text, docstrings, manual_pages, modules_of, reference, standard_modules

Floats = npt.NDArray[np.float64]
Asked = tuple[str, frozenset[int]]
"""A question and the places of the texts that answer it."""

GRID = tuple(round(0.05 * n, 2) for n in range(10, 20))
PACKAGES = ("numpy", "textual", "rich", "click", "pydantic", "hypothesis", "huggingface_hub", "networkx", "scipy")
DRAWS = 2000
SERVED = 200


@dataclass(frozen=True, slots=True)
class Corpus:
    """`chooses`: its questions choose the weight and are not judged."""

    name: str
    texts: Sequence[str]
    asked: Sequence[Asked]
    chooses: bool = False


def corpora(options: argparse.Namespace) -> Iterator[Corpus]:
    def pages(sections: str) -> list[Text]:
        return list(manual_pages([folder / f"man{n}" for n in sections for folder in (MANUAL, *options.manual)]))

    most, dice = options.questions, random.Random(options.seed)
    commands, python = pages("1"), list(docstrings(standard_modules()))
    yield _own("manual pages, sections 2 to 8", pages("2345678"), most, dice, chooses=True)
    yield _own("docstrings of packages", list(docstrings(modules_of(PACKAGES))), most, dice, chooses=True)
    yield _own("manual pages", commands, most, dice)
    yield _own("Python docstrings", python, most, dice)
    if options.python_html:
        yield _own("Python reference", list(reference(options.python_html)), most, dice)
    for series in ("first", "second"):
        yield _paraphrased(f"paraphrases, manual pages, {series}", commands, "commands", series)
        yield _paraphrased(f"paraphrases, Python, {series}", python, "python", series)


def _own(name: str, texts: Sequence[Text], most: int, dice: random.Random, *, chooses: bool = False) -> Corpus:
    picked = dice.sample(range(len(texts)), min(most, len(texts)))
    asked = [(texts[n].question, frozenset([n])) for n in picked]
    return Corpus(name, [text.text for text in texts], asked, chooses)


def _paraphrased(name: str, texts: Sequence[Text], what: str, series: str) -> Corpus:
    """Questions whose answer this machine has not are left out."""
    found = [
        (question, frozenset(n for n, text in enumerate(texts) if text.name in names))
        for question, names in paraphrases.asked(what, series)
    ]
    return Corpus(name, [text.whole for text in texts], [each for each in found if each[1]])


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both searches found for one question, cosines completed; `answers` are the right numbers."""

    words: dict[int, float]
    vectors: dict[int, float]
    answers: frozenset[int]

    def fused(self, share: float) -> int | None:
        words = self.words if share > 0 else {}
        vectors = self.vectors if share < 1 else {}
        return self.place(rank.order(rank.fuse(words, vectors, Weights(words=share)))[:POOL])

    def place(self, ranked: Sequence[int]) -> int | None:
        return next((place for place, num in enumerate(ranked, 1) if num in self.answers), None)


@dataclass(frozen=True, slots=True)
class Found:
    """Of one corpus; `served` are the places that Recall itself gave for the first questions."""

    candidates: list[Candidates]
    served: list[int | None]


def searched(corpus: Corpus, folder: Path) -> Found:
    store = Store(folder / f"{corpus.name}.db", clock=lambda: 0.0)
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
        found.append(Candidates(by_words, by_vector, frozenset(numbers[n] for n in right)))
        if place < SERVED:
            hits = recall.search(Question(text=question))
            served.append(found[-1].place([hit.memory.num for hit in hits]))
    index.close()
    store.close()
    return Found(found, served)


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


def chosen(found: Mapping[str, Found]) -> dict[float, float]:
    """nDCG@10 by share of the words, each corpus alike."""
    return {
        share: round(float(np.mean([_scored(each, share, ndcg_at_10).mean() for each in found.values()])), 4)
        for share in GRID
    }


def judged(found: Found) -> dict[str, object]:
    served = Weights().words
    ways = {"lexical": 1.0, "vectors": 0.0, f"hybrid, as served ({served})": served}
    result: dict[str, object] = {"questions": len(found.candidates)}
    for metric, score in (("recall@10", recall_at_10), ("nDCG@10", ndcg_at_10)):
        values = {way: _scored(found, share, score) for way, share in ways.items()}
        result[metric] = {way: interval(value) for way, value in values.items()}
        best = _scored(found, served, score)
        result[f"{metric}, hybrid less"] = {way: interval(best - values[way]) for way in ("lexical", "vectors")}
    result[f"recall@10 of Recall.search, first {SERVED}"] = float(np.mean([recall_at_10(p) for p in found.served]))
    return result


def _scored(found: Found, share: float, score: Callable[[int | None], float]) -> Floats:
    return np.array([score(each.fused(share)) for each in found.candidates])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--manual", type=Path, nargs="*", default=[], help="More folders like /usr/share/man.")
    parser.add_argument("--python-html", type=Path, help="The folder `library` of Python's documentation in HTML.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, object] = {}
    choosing: dict[str, Found] = {}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for corpus in corpora(options):
            if len(corpus.asked) < 50:
                print(f"{corpus.name}: only {len(corpus.asked)} questions here, left out")
                continue
            found = searched(corpus, Path(folder))
            if corpus.chooses:
                choosing[corpus.name] = found
                continue
            results[corpus.name] = {"texts": len(corpus.texts), **judged(found)}
            print(f"== {corpus.name}\n{json.dumps(results[corpus.name], indent=1)}", flush=True)
    results["nDCG@10 by share, on the text that chooses"] = shares = chosen(choosing)
    results["best share there"] = max(shares, key=lambda share: shares[share])
    print(json.dumps({"by share": shares, "questions": sum(len(each.candidates) for each in choosing.values())}))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
