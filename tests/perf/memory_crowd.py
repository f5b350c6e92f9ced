"""Many writers and readers on one store at once: errors, what was not found after its write, rates and latencies.

    python -m tests.perf.memory_crowd [--minutes 5] [--writers 10] [--readers 10] [--rows 20000]

Each writer looks for a word that only its last memory has, each reader asks for sentences of other manual pages.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np

from memory_store.embed import StaticEmbedder
from memory_store.recall import Question
from memory_store.records import NewMemory
from tests.perf.memory_scale import Opened
from tests.perf.memory_vectors import BATCH, QUESTIONS, corpus

CHECKED_EVERY = 20


class Crowd:
    """What the threads do until `end`, and what became of it."""

    def __init__(self, opened: Opened, end: float) -> None:
        self._opened, self._end = opened, end
        self.errors: list[str] = []
        self.lost: list[str] = []
        self.written: list[float] = []
        self.asked: list[float] = []

    def write(self, writer: int) -> None:
        added = 0
        while time.monotonic() < self._end:
            word, began = f"zyx{writer}q{added}", time.perf_counter()
            num = self._opened.store.add(NewMemory(text=f"the sign of writer {writer} is {word}", time=0.0)).num
            self.written.append(time.perf_counter() - began)
            if added % CHECKED_EVERY == 0:
                hits = self._opened.recall.search(Question(text=word, k=1))
                if not hits or hits[0].memory.num != num:
                    self.lost.append(word)
            added += 1

    def read(self, questions: list[str]) -> None:
        while time.monotonic() < self._end:
            for question in questions:
                began = time.perf_counter()
                if not self._opened.recall.search(Question(text=question)):
                    self.lost.append(question)
                self.asked.append(time.perf_counter() - began)

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is counted here
            self.errors.append(repr(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    texts, _ = corpus(given.rows + QUESTIONS)
    with tempfile.TemporaryDirectory() as folder:
        opened = Opened(Path(folder), StaticEmbedder())
        for at in range(0, given.rows, BATCH):
            opened.store.add_many([NewMemory(text=text) for text in texts[at : min(at + BATCH, given.rows)]])
        crowd, seconds = Crowd(opened, time.monotonic() + 60 * given.minutes), 60 * given.minutes
        jobs: list[Callable[[], None]] = [lambda n=n: crowd.write(n) for n in range(given.writers)]  # type: ignore[misc]
        jobs += [lambda: crowd.read(texts[given.rows :]) for _ in range(given.readers)]
        threads = [Thread(target=crowd.guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{len(crowd.errors)} errors {crowd.errors[:3]}, {len(crowd.lost)} lost {crowd.lost[:3]}")
        for name, taken in (("adds", crowd.written), ("recalls", crowd.asked)):
            middle, late, most = np.quantile(taken, (0.5, 0.95, 1.0)) * 1e3
            print(f"{name}: {len(taken) / seconds:.0f}/s, p50 {middle:.1f} ms, p95 {late:.1f}, most {most:.1f}")
        opened.close()


if __name__ == "__main__":
    main()
