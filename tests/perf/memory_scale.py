"""A store with its indexes at a size: load, recall, a small namespace, writes beside searches, answers that stay equal.

    python -m tests.perf.memory_scale ROWS [--folder KEPT] [--writes]

Texts are those of `memory_vectors`. One row of a hundred is in the namespace "small"; a store of these alone stands
beside it. `--folder` keeps the stores, and takes them as they are where they are there already.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import numpy as np
from threadpoolctl import threadpool_limits

from memory_store.embed import StaticEmbedder
from memory_store.lexical import LexicalIndex
from memory_store.recall import Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store
from memory_store.vectors import VectorIndex
from tests.perf.memory_vectors import BATCH, QUESTIONS, corpus, resident
from tests.perf.slices import ask_for_short_slices

WRITES = 6000
WRITERS = (1, 10, 40)
SYNCS = 200
# What one add by itself writes to the log.
ADD_BYTES = 86_000
TURNS = 3
REPEATS = 1000


class Opened:
    """A store with both indexes, as the daemon has it."""

    def __init__(self, path: Path, embedder: StaticEmbedder) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.store = Store(path / "memory.db", embedder=embedder)
        before, start = resident(), time.perf_counter()
        self.words = LexicalIndex(self.store, path / "index")
        middle, after = time.perf_counter(), resident()
        self.vectors = VectorIndex(self.store, path / "index")
        print(f"opened: words {middle - start:.2f} s {after - before:.0f} MB", end=", ")
        print(f"vectors {time.perf_counter() - middle:.2f} s {resident() - after:.0f} MB")
        self.recall = Recall(self.store, words=self.words, vectors=self.vectors)

    def close(self) -> None:
        self.vectors.close()
        self.words.close()
        self.store.close()

    def fill(self, texts: Sequence[str], namespace: Callable[[int], str]) -> None:
        start = time.perf_counter()
        for at in range(0, len(texts), BATCH):
            part = enumerate(texts[at : at + BATCH], at)
            self.store.add_many([NewMemory(text=text, namespace=namespace(n)) for n, text in part])
        added = time.perf_counter() - start
        self.vectors.wait()
        print(f"{len(texts)} rows loaded in {added:.1f} s, clustered after {time.perf_counter() - start:.1f} s")


def times(name: str, ask: Callable[[str], object], questions: Sequence[str]) -> None:
    taken = []
    for question in questions:
        start = time.perf_counter()
        ask(question)
        taken.append((time.perf_counter() - start) * 1e3)
    print(f"{name:28} p50 {np.median(taken):7.2f} ms  p95 {np.quantile(taken, 0.95):7.2f}  most {max(taken):7.2f}")


def searches(whole: Opened, alone: Opened, embedder: StaticEmbedder, asked: Sequence[str]) -> None:
    for name, one in (("small namespace", whole), ("a store of its size", alone)):
        times(name, lambda q, one=one: one.recall.search(Question(text=q, namespace="small")), asked)  # type: ignore[misc]
    times("words, 10 hits", lambda q: whole.words.search("default", q, 10), asked)
    times("vectors, 10 hits", lambda q: whole.vectors.search("default", embedder.embed([q])[0], 10), asked)
    times("recall, whole sentences", lambda q: whole.recall.search(Question(text=q)), asked)
    short = [" ".join(question.split()[:8]) for question in asked]
    times("recall, eight words", lambda q: whole.recall.search(Question(text=q)), short)
    print(f"process: {resident():.0f} MB")


def syncs(folder: Path) -> float:
    """How often a second this disk makes durable what one add writes, over a file that need not grow."""
    path = folder / "syncs"
    path.write_bytes(bytes(SYNCS * ADD_BYTES))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        start = time.perf_counter()
        for at in range(SYNCS):
            os.pwrite(file.fileno(), b"x" * ADD_BYTES, at * ADD_BYTES)
            os.fdatasync(file.fileno())
        taken = time.perf_counter() - start
    path.unlink()
    return SYNCS / taken


def writes(opened: Opened, texts: Sequence[str]) -> None:
    """Durable, by several threads one by one; the last one is looked for in the thread that wrote it."""
    # Of its own in each run: what a kept folder has already is not written again.
    share, begun = len(texts) // len(WRITERS), time.time()
    for turn, writers in enumerate(WRITERS):
        part, before = texts[turn * share : (turn + 1) * share], syncs(opened.store.path.parent)

        def write(mine: Sequence[str]) -> None:
            for text in mine:
                opened.store.add(NewMemory(text=text, time=begun))

        threads = [Thread(target=write, args=(part[n::writers],)) for n in range(writers)]
        start, cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate, cpu = len(part) / (time.perf_counter() - start), (time.process_time() - cpu) / len(part)
        print(f"{writers:2} writers, one by one: {rate:.0f} adds/s, {cpu * 1e3:.2f} ms of CPU each", end="; ")
        print(f"the disk alone: {before:.0f} syncs/s, of which one writer used {rate / before:.0%}" * (writers == 1))
    added = opened.store.add(NewMemory(text="The zyzzyva sleeps under the veranda", time=0.0))
    hits = opened.recall.search(Question(text="where does the zyzzyva sleep?"))
    print("found in the same call" if hits[0].memory.num == added.num else "NOT FOUND after its write")


def searches_beside_writes(opened: Opened, texts: Sequence[str], questions: Sequence[str]) -> None:
    """In turns without and with a writer: what is long without one is the machine's."""
    # As the daemon does: else one collection of all that was loaded falls into a search.
    gc.collect()
    gc.freeze()
    for _ in range(TURNS):
        for size in (0, 1, 100):
            done = Event()

            def write(size: int = size, done: Event = done) -> None:
                at = 0
                while size and not done.is_set():
                    now = time.time()
                    opened.store.add_many([NewMemory(text=text, time=now) for text in texts[at : at + size]])
                    at = (at + size) % len(texts)

            writer = Thread(target=write)
            writer.start()
            name = f"recall beside adds of {size}" if size else "recall without a writer"
            times(name, lambda q: opened.recall.search(Question(text=q)), questions)
            done.set()
            writer.join()


def answers(opened: Opened, questions: Sequence[str]) -> list[list[tuple[str, float]]]:
    found = [opened.recall.search(Question(text=question)) for question in questions]
    return [[(hit.memory.id, hit.score) for hit in hits] for hits in found]


def stays_the_same(folder: Path, embedder: StaticEmbedder, questions: Sequence[str]) -> None:
    """One question again and again; several after a restart, and with indexes made anew."""
    opened = Opened(folder, embedder)
    first, one = answers(opened, questions), answers(opened, questions[:1])
    other = sum(answers(opened, questions[:1]) != one for _ in range(REPEATS))
    opened.close()
    opened = Opened(folder, embedder)
    restarted = answers(opened, questions) == first
    opened.close()
    shutil.rmtree(folder / "index")
    opened = Opened(folder, embedder)
    opened.vectors.wait()
    rebuilt = answers(opened, questions) == first
    opened.close()
    print(f"{other} of {REPEATS} answers differ; equal after a restart: {restarted}, after a rebuild: {rebuilt}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--writes", action="store_true", help="writes, and searches beside them, alone")
    given = parser.parse_args()
    ask_for_short_slices()
    # As the daemon does.
    threadpool_limits(1, user_api="blas")
    texts, _ = corpus(given.rows + QUESTIONS + 2 * WRITES)
    random.Random(4).shuffle(texts)
    asked, more, texts = texts[:QUESTIONS], texts[QUESTIONS : QUESTIONS + 2 * WRITES], texts[QUESTIONS + 2 * WRITES :]
    embedder = StaticEmbedder()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for name, chosen in (("whole", texts), ("alone", texts[::100])):
            opened = Opened(folder / name, embedder)
            if not opened.store.namespaces():
                opened.fill(
                    chosen, (lambda n: "default" if n % 100 else "small") if name == "whole" else lambda _: "small"
                )
            opened.close()
        whole, alone = Opened(folder / "whole", embedder), Opened(folder / "alone", embedder)
        if not given.writes:
            searches(whole, alone, embedder, asked)
        writes(whole, more[:WRITES])
        searches_beside_writes(whole, more[WRITES:], asked)
        alone.close()
        whole.close()
        if not given.writes:
            stays_the_same(folder / "whole", embedder, asked[:50])


if __name__ == "__main__":
    main()
