"""The graph of names: how long one added memory takes, and whether neighbours by name make recall any better.

    python -m tests.perf.memory_graph [--memories 100000] [--adds 500] [--pages 1200] [--questions 400]

Speed: passages of this machine's manual pages, cut to fit, until there are enough; then more of them, one by one, each
followed into the graph. Quality: the questions of `memory_quality`, over weights of the graph, with the gain over none.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from memory_store.graph import Graph
from memory_store.rank import Weights
from memory_store.recall import Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store
from tests.perf.memory_quality import interval, ndcg_at_10, recall_at_10
from tests.perf.real_text import MANUAL, Text, docstrings, manual_pages, sections_of, standard_modules

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4)
MANUALS = Path("/usr/share/man")


def passages(dice: random.Random) -> Iterator[str]:
    paths = [path for path in sorted(MANUALS.glob("man[1-8]/*.gz")) if not path.is_symlink()]
    dice.shuffle(paths)
    for path in paths:
        for _, text in sections_of(gzip.decompress(path.read_bytes()).decode("utf-8", "replace")):
            for start in range(0, min(len(text), 24_000), 600):
                if len(text) - start > 150:
                    yield text[start : start + 600].replace("\0", " ")


def speed(count: int, adds: int, folder: Path) -> dict[str, object]:
    texts = dict.fromkeys(passages(random.Random(1)))
    every = list(texts)[: count + adds]
    first, rest = every[: len(every) - adds], every[len(every) - adds :]
    store = Store(folder / "speed.db")
    for start in range(0, len(first), 512):
        store.add_many([NewMemory(text=text) for text in first[start : start + 512]])
    graph = Graph(store)
    begun = time.perf_counter()
    graph.follow()
    built = time.perf_counter() - begun
    begun, local = time.perf_counter(), graph.modularity()
    leiden = graph.settle()
    settled = time.perf_counter() - begun
    took = []
    for text in rest:
        store.add(NewMemory(text=text))
        begun = time.perf_counter()
        graph.follow()
        took.append(1000 * (time.perf_counter() - begun))
    after = graph.modularity()
    again = graph.settle()
    store.close()
    p50, p95, slowest = np.quantile(took, (0.5, 0.95, 1.0))
    return {
        "memories": len(first),
        "entities": len(graph),
        "built s": round(built, 1),
        "Leiden s": round(settled, 1),
        "modularity, built edge by edge": round(local, 4),
        "modularity, Leiden": round(leiden, 4),
        "one add ms (p50, p95, most)": [round(value, 2) for value in (p50, p95, slowest)],
        f"modularity after {adds} adds, Leiden again": [round(after, 4), round(again, 4)],
    }


def quality(name: str, pairs: Sequence[Text], questions: int, dice: random.Random, folder: Path) -> dict[str, object]:
    store = Store(folder / f"{name}.db", clock=lambda: 0.0)
    numbers: list[int] = []
    for start in range(0, len(pairs), 256):
        batch = [NewMemory(text=pair.text, id=str(start + n)) for n, pair in enumerate(pairs[start : start + 256])]
        numbers += [added.num for added in store.add_many(batch)]
    graph = Graph(store)
    graph.follow()
    graph.settle()
    picked = dice.sample(range(len(pairs)), min(questions, len(pairs)))
    found: dict[str, object] = {"texts": len(pairs), "questions": len(picked), "entities": len(graph)}
    scores = {}
    for weight in WEIGHTS:
        recall = Recall(store, weights=Weights(graph=weight), graph=graph)
        places = []
        for n in picked:
            hits = recall.search(Question(text=pairs[n].question))
            places.append(next((at for at, hit in enumerate(hits, 1) if hit.memory.num == numbers[n]), None))
        scores[weight] = [np.array([score(place) for place in places]) for score in (recall_at_10, ndcg_at_10)]
        for label, value, none in zip(("recall@10", "nDCG@10"), scores[weight], scores[0.0], strict=True):
            found[f"{label}, graph {weight}"] = {"mean": interval(value), "gain": interval(value - none)}
    store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--adds", type=int, default=500)
    parser.add_argument("--pages", type=int, default=1200)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    dice = random.Random(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if options.memories:
            print(json.dumps(speed(options.memories, options.adds, Path(folder)), indent=1), flush=True)
        if options.questions:
            sources = {"manual pages": manual_pages([MANUAL / "man1"]), "python docs": docstrings(standard_modules())}
            for name, source in sources.items():
                every = list(source)
                pairs = dice.sample(every, min(options.pages, len(every)))
                print(f"== {name}", json.dumps(quality(name, pairs, options.questions, dice, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
