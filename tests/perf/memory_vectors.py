"""Vector search of a store: latency, recall and memory, beside sqlite-vec (through apsw) and hnswlib.

    python -m tests.perf.memory_vectors ROWS [--random] [--tier binary] [--peers]

Rows are distinct sentences of this machine's manual pages, embedded with the shipped table; others are asked.
`--random` takes uniform-random vectors instead. Where pages do not suffice, the rest are pairs of sentences joined.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import random
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from memory_store import vector_rows
from memory_store.embed import StaticEmbedder, Vectors
from memory_store.records import NewMemory
from memory_store.store import Store
from memory_store.vectors import VectorIndex

QUESTIONS = 200
K = 10
BATCH = 16_384


def sentences() -> Iterator[str]:
    files = sorted(Path("/usr/share/man").glob("man*/*.gz"))
    random.Random(1).shuffle(files)
    seen = set[int]()
    for file in files:
        source = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        plain = re.sub(r"\\f.|\\\(..|\\.?", "", re.sub(r'(?m)^[.\']\\".*$|^\.[A-Za-z]+ ?', " ", source))
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", plain):
            text = " ".join(sentence.split())[:600]
            if len(text) > 40 and hash(text) not in seen:
                seen.add(hash(text))
                yield text


def corpus(count: int) -> tuple[list[str], int]:
    """That many distinct texts, and how many of them are sentences as they were."""
    found: list[str] = []
    for text in sentences():
        found.append(text)
        if len(found) == count:
            return found, count
    whole, draw = len(found), random.Random(2)
    while len(found) < count:
        found.append(f"{found[draw.randrange(whole)]} {found[draw.randrange(whole)]}")
    return found, whole


class Random:
    """Uniform directions, whatever the text."""

    digest = "random"
    width = 256

    def __init__(self) -> None:
        self._draw = np.random.default_rng(3)

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = self._draw.standard_normal((len(texts), self.width)).astype(np.float32)
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def mapped() -> float:
    """Megabytes of that which lie in files, and which the system can drop."""
    held = re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(held[1]) * 1024 / 1e6 if held else 0.0


def measure(name: str, ask: Callable[[Vectors], Sequence[int]], questions: Vectors, truth: list[set[int]]) -> None:
    for question in questions[:5]:
        ask(question)
    times, found = [], 0
    for question, true in zip(questions, truth, strict=True):
        start = time.perf_counter()
        nums = ask(question)
        times.append((time.perf_counter() - start) * 1e3)
        found += len(true & set(nums))
    late = sorted(times)[int(len(times) * 0.95)]
    print(f"{name:24} p50 {statistics.median(times):8.2f} ms  p95 {late:8.2f} ms  recall {found / K / len(truth):.4f}")


def peers(rows: Vectors, questions: Vectors, truth: list[set[int]]) -> None:
    import apsw
    import hnswlib
    import sqlite_vec

    graph = hnswlib.Index("ip", rows.shape[1])
    start = time.perf_counter()
    graph.init_index(len(rows), M=16, ef_construction=200)
    graph.add_items(rows, np.arange(1, len(rows) + 1))
    graph.set_ef(128)
    print(f"hnswlib built in {time.perf_counter() - start:.1f} s")
    measure("hnswlib M16 ef128", lambda q: graph.knn_query(q, K)[0][0].tolist(), questions, truth)
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{rows.shape[1]}] distance_metric=cosine)")
    db.executemany("INSERT INTO v (rowid, e) VALUES (?, ?)", ((n, row.tobytes()) for n, row in enumerate(rows, 1)))
    sql = f"SELECT rowid FROM v WHERE e MATCH ? AND k = {K}"
    few = slice(0, 40)
    measure("sqlite-vec float", lambda q: [n for (n,) in db.execute(sql, (q.tobytes(),))], questions[few], truth[few])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--tier", choices=["int8", "binary"], default="int8")
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args()
    texts, whole = corpus(given.rows + QUESTIONS)
    random.Random(4).shuffle(texts)
    embedder = Random() if given.random else StaticEmbedder()
    asked, texts = texts[:QUESTIONS], texts[QUESTIONS:]
    print(f"{len(texts)} rows, {whole} sentences as they were, the rest joined")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "memory.db", embedder=embedder)
        start = time.perf_counter()
        for at in range(0, len(texts), BATCH):
            store.add_many([NewMemory(text=text) for text in texts[at : at + BATCH]])
        print(f"stored in {time.perf_counter() - start:.1f} s")
        questions = embedder.embed(asked)
        before, start = resident(), time.perf_counter()
        index = VectorIndex(store, Path(folder) / "index", tier=given.tier)
        index.wait()
        print(f"indexed in {time.perf_counter() - start:.1f} s")
        index.close()
        # What is left of the closed one refers to itself.
        del index
        gc.collect()
        index = VectorIndex(store, Path(folder) / "index", tier=given.tier)
        for question in questions:
            index.search("default", question, K)
        print(f"process: {before:.0f} MB before, {resident():.0f} MB with the index, {mapped():.0f} of it mapped files")
        print(f"index on disk: {sum(f.stat().st_blocks * 512 for f in index.files()) / 1e6:.0f} MB")
        index._seen.clear()
        with store.reading() as connection:
            found, halves = vector_rows.get(connection, store.own_embedder(), range(1, len(texts) + 1))
        numbers, rows = np.array(found), halves.astype(np.float32)
        best = np.argsort(-(questions @ rows.T), axis=1, kind="stable")[:, :K]
        truth = [set(numbers[near].tolist()) for near in best]
        if not given.peers:
            del rows
        measure(f"index {given.tier}", lambda q: index.search("default", q, K)[0].tolist(), questions, truth)
        exact = questions[:40]
        measure("index exact", lambda q: index.search("default", q, K, True)[0].tolist(), exact, truth[:40])
        if given.peers:
            peers(rows, questions, truth)


if __name__ == "__main__":
    main()
