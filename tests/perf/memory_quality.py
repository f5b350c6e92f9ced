"""Retrieval quality on this machine's own texts: hybrid recall against its halves, the fusion weight cross-validated.

    python -m tests.perf.memory_quality [--pages 3000] [--questions 800] [--out quality.json]

Manual pages: the NAME line asks for its page, which does not hold that line. Python: the first sentence of a docstring
asks for the rest of it. One answer per question. Weights are chosen on four fifths of the questions and judged on the
last fifth; intervals are of 2,000 bootstrap draws over questions, paired where two ways are compared.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import json
import pkgutil
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store import rank
from memory_store.plain_search import PlainWords
from memory_store.rank import Weights
from memory_store.recall import POOL, Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store

Floats = npt.NDArray[np.float64]

MANUAL = Path("/usr/share/man/man1")
GRID = tuple(round(0.1 * n, 1) for n in range(1, 10))
FOLDS = 5
DRAWS = 2000
MOST_TEXT = 4000
_ROFF = re.compile(r"\\f(?:\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&/,|^%]|\\\*(?:\(..|\[[^]]*\]|.)")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the one text that answers it."""

    question: str
    text: str


def manual_pages(count: int, dice: random.Random) -> Iterator[Pair]:
    paths = sorted(MANUAL.glob("*.1.gz")) + sorted(MANUAL.glob("*.1"))
    paths = [path for path in paths if not path.is_symlink()]
    for path in dice.sample(paths, min(count, len(paths))):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sections = dict(_sections(content.decode("utf-8", "replace")))
        name, sep, about = sections.pop("NAME", "").partition(" - ")
        body = "\n".join(text for text in sections.values() if text)[:MOST_TEXT]
        if sep and 15 <= len(about) <= 200 and len(body) >= 300 and name:
            yield Pair(about.strip(), body)


def _sections(source: str) -> Iterator[tuple[str, str]]:
    """Rough text of a manual page, by section: enough for words, not for reading."""
    title, held = "", list[str]()
    for line in source.split("\n"):
        if line.startswith((".SH", ".Sh")):
            yield title, "\n".join(held)
            title, held = line[3:].strip().strip('"').upper(), []
            continue
        if line.startswith((".\\", "'\\", ".TH", ".Dd", ".de", ".if", ".ie", ".el", ".ds", ".nr")):
            continue
        plain = re.sub(r"^[.'][A-Za-z]{1,3}\s*", "", line)
        plain = (
            _ROFF.sub("", plain).replace("\\-", "-").replace("\\(em", "-").replace("\\(aq", "'").replace("\\e", "\\")
        )
        held.append(plain.replace('"', " ").strip())
    yield title, "\n".join(held)


def python_docs(count: int, dice: random.Random) -> Iterator[Pair]:
    found: dict[str, Pair] = {}
    names = sorted(m.name for m in pkgutil.iter_modules() if m.name in sys.stdlib_module_names and m.name[0] != "_")
    for name in names:
        if name in ("antigravity", "this", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "test"):
            continue
        for inside, value in sorted(inspect.getmembers(importlib.import_module(name), callable)):
            doc = inspect.getdoc(value) if getattr(value, "__module__", None) == name else None
            first, _, rest = (doc or "").partition("\n\n")
            first = " ".join(first.split())
            if 25 <= len(first) <= 200 and len(rest) >= 150:
                found.setdefault(first, Pair(first, f"{name}.{inside}\n{rest[:MOST_TEXT]}"))
    return iter(dice.sample(list(found.values()), min(count, len(found))))


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both searches found for one question, cosines completed; `answer` is the right number."""

    words: dict[int, float]
    vectors: dict[int, float]
    answer: int

    def place(self, ranked: Sequence[int]) -> int | None:
        return ranked.index(self.answer) + 1 if self.answer in ranked else None

    def fused(self, share: float) -> int | None:
        words = self.words if share > 0 else {}
        vectors = self.vectors if share < 1 else {}
        return self.place(rank.order(rank.fuse(words, vectors, Weights(words=share)))[:POOL])


def gather(
    store: Store, numbers: Sequence[int], texts: Sequence[str], asked: Sequence[tuple[str, int]]
) -> list[Candidates]:
    words, matrix = PlainWords(store), store.embedder.embed(texts)
    rows = {num: row for row, num in enumerate(numbers)}
    found = []
    for question, answer in asked:
        nums, scores = words.search("default", question, POOL)
        by_words = {int(num): float(score) for num, score in zip(nums, scores, strict=True)}
        cosines = matrix @ store.embedder.embed([question])[0]
        near = [numbers[row] for row in np.argsort(-cosines, kind="stable")[:POOL]]
        by_vector = {num: float(cosines[rows[num]]) for num in {*near, *by_words}}
        found.append(Candidates(by_words, by_vector, answer))
    return found


def recall_at_10(place: int | None) -> float:
    return float(place is not None and place <= 10)


def ndcg_at_10(place: int | None) -> float:
    return 1 / np.log2(place + 1) if place is not None and place <= 10 else 0.0


def cross_validated(found: Sequence[Candidates], dice: random.Random) -> tuple[list[int | None], list[float]]:
    """Places of held-out answers, and the share of words chosen for each fold."""
    order = list(range(len(found)))
    dice.shuffle(order)
    grid = {share: [candidates.fused(share) for candidates in found] for share in GRID}
    places: list[int | None] = [None] * len(found)
    chosen = []
    for fold in range(FOLDS):
        held = set(order[fold::FOLDS])
        share = max(GRID, key=lambda share: sum(ndcg_at_10(p) for n, p in enumerate(grid[share]) if n not in held))
        chosen.append(share)
        for number in held:
            places[number] = grid[share][number]
    return places, chosen


def interval(values: Floats, seed: int = 7) -> tuple[float, float, float]:
    """Mean with the 2.5 and 97.5 % points of its bootstrap."""
    dice = np.random.default_rng(seed)
    means = values[dice.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def measured(name: str, pairs: Sequence[Pair], questions: int, dice: random.Random, folder: Path) -> dict[str, object]:
    store = Store(folder / f"{name}.db", clock=lambda: 0.0)
    numbers: list[int] = []
    for start in range(0, len(pairs), 256):
        batch = [NewMemory(text=pair.text, id=str(start + n)) for n, pair in enumerate(pairs[start : start + 256])]
        numbers += [added.num for added in store.add_many(batch)]
    picked = dice.sample(range(len(pairs)), min(questions, len(pairs)))
    asked = [(pairs[n].question, numbers[n]) for n in picked]
    found = gather(store, numbers, [pair.text for pair in pairs], asked)
    hybrid, chosen = cross_validated(found, dice)
    recall = Recall(store)
    served = [
        next((n for n, hit in enumerate(recall.search(Question(text=text)), 1) if hit.memory.num == answer), None)
        for text, answer in asked[:200]
    ]
    store.close()
    ways: dict[str, list[int | None]] = {
        "lexical": [c.fused(1.0) for c in found],
        "vectors": [c.fused(0.0) for c in found],
        "hybrid, cross-validated": hybrid,
        f"hybrid, as served ({Weights().words})": [c.fused(Weights().words) for c in found],
    }
    result: dict[str, object] = {"texts": len(pairs), "questions": len(asked), "chosen": chosen}
    for metric, score in (("recall@10", recall_at_10), ("nDCG@10", ndcg_at_10)):
        values = {way: _scored(places, score) for way, places in ways.items()}
        best = values["hybrid, cross-validated"]
        result[metric] = {way: interval(value) for way, value in values.items()}
        result[f"{metric}, hybrid less"] = {way: interval(best - values[way]) for way in ("lexical", "vectors")}
    result["recall@10 of Recall.search, first 200"] = float(np.mean([recall_at_10(place) for place in served]))
    return result


def _scored(places: Sequence[int | None], score: Callable[[int | None], float]) -> Floats:
    return np.array([score(place) for place in places])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--questions", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    results: dict[str, object] = {}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name, source in (("manual pages", manual_pages), ("python docs", python_docs)):
            pairs = list(source(options.pages, dice))
            if len(pairs) < 100:
                print(f"{name}: only {len(pairs)} texts here, left out")
                continue
            results[name] = measured(name, pairs, options.questions, dice, Path(folder))
            print(f"== {name}\n{json.dumps(results[name], indent=1)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
