"""The same question on the same store: the same answer 1,000 times, across restarts and rebuilds of both indexes.

    python -m tests.perf.memory_same [--times 1000] [--texts 2000] [--questions 50]

Every hit is compared with the first answer: its id, its score to the last bit, its trust and its reasons. Three fifths
are asked of one open store; one fifth each is spread over stores opened again, and over indexes built anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from memory_store.lexical import LexicalIndex
from memory_store.recall import Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store
from memory_store.vectors import VectorIndex
from tests.perf.real_text import docstrings, standard_modules

OPENED = 20
"""So often the store is opened again, and so often its indexes are thrown away."""


@contextmanager
def opened(folder: Path, *, anew: bool = False) -> Iterator[Recall]:
    if anew:
        shutil.rmtree(folder / "index", ignore_errors=True)
    (folder / "index").mkdir(exist_ok=True)
    store = Store(folder / "memory.db", clock=lambda: 0.0)
    words, vectors = LexicalIndex(store, folder / "index"), VectorIndex(store, folder / "index", flat_rows=256)
    vectors.wait()
    try:
        yield Recall(store, words=words, vectors=vectors)
    finally:
        words.close()
        vectors.close()
        store.close()


def answers(recall: Recall, questions: Sequence[str]) -> list[str]:
    return [
        repr([(hit.memory.id, hit.score.hex(), hit.trust, hit.why) for hit in recall.search(Question(text=text))])
        for text in questions
    ]


def differing(folder: Path, questions: Sequence[str], times: int, say: Callable[[str], None]) -> int:
    """How many of `times` whole rounds over the questions had any other answer than the first."""
    with opened(folder) as recall:
        first = answers(recall, questions)
        wrong = sum(answers(recall, questions) != first for _ in range(3 * times // 5))
    say(f"one open store: {wrong} differ")
    for anew in (False, True):
        for _ in range(OPENED):
            with opened(folder, anew=anew) as recall:
                wrong += sum(answers(recall, questions) != first for _ in range(times // 5 // OPENED))
        say(f"{'built anew' if anew else 'opened again'} {OPENED} times: {wrong} differ in all")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=50)
    options = parser.parse_args()
    texts = list(docstrings(standard_modules()))[: options.texts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder / "memory.db", clock=lambda: 0.0)
        store.add_many([NewMemory(text=text.text, id=text.name) for text in texts])
        store.close()
        step = max(1, len(texts) // options.questions)
        questions = [text.question for text in texts[::step]][: options.questions]
        wrong = differing(folder, questions, options.times, lambda told: print(told, flush=True))
        print(json.dumps({"texts": len(texts), "questions": len(questions), "times": options.times, "differ": wrong}))


if __name__ == "__main__":
    main()
