"""What learning from feedback is worth: simulated users over this machine's manual pages, judged on held-out questions.

    python -m tests.perf.memory_learning [--pages 1500] [--events 200] [--seeds 3] [--out learning.json]

A question is the NAME line of a page; memories are passages of pages, without that line. Each user keeps hits by one
rule below, stated in terms of pages and sections, and errs in one event of ten by keeping any hit. After the events
the learned ranking is compared with the unlearned one on questions never asked before, by the rule without errors.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory_store.chunks import chunks
from memory_store.documents import Block
from memory_store.feedback import Feedback
from memory_store.lexical import LexicalIndex
from memory_store.recall import Hit, Question, Recall
from memory_store.records import Author, Memory, NewMemory
from memory_store.store import Store
from memory_store.vectors import VectorIndex
from tests.perf.memory_quality import interval
from tests.perf.real_text import MANUAL, sections_of

ERRS = 0.1
HELD_OUT = 300
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    about: str
    passages: tuple[tuple[str, str], ...]


def pages(count: int, dice: random.Random) -> list[Page]:
    found = []
    paths = [path for path in sorted((MANUAL / "man1").glob("*.1.gz")) if not path.is_symlink()]
    dice.shuffle(paths)
    for path in paths:
        sections = dict(sections_of(gzip.decompress(path.read_bytes()).decode("utf-8", "replace")))
        _, sep, about = sections.pop("NAME", "").partition(" - ")
        blocks = [Block(text, title) for title, text in sections.items() if title and len(text) >= 80]
        passages = tuple((block.place, block.text) for block in chunks(blocks[:12]))[:12]
        if sep and 15 <= len(about) <= 200 and len(passages) >= 3:
            found.append(Page(path.name.split(".")[0], about.strip(), passages))
        if len(found) == count:
            break
    return found


Rule = Callable[[Memory, Page], bool]


def _of(memory: Memory, page: Page) -> bool:
    return memory.author.name == page.name


def _section(memory: Memory) -> str:
    return (memory.place or "").rpartition(": ")[2]


USERS: dict[str, tuple[str, Rule]] = {
    "learner": (
        "of the right page, what explains: its DESCRIPTION",
        lambda memory, page: _of(memory, page) and _section(memory) == "DESCRIPTION",
    ),
    "doer": (
        "of the right page, what can be typed: SYNOPSIS, USAGE or EXAMPLES",
        lambda memory, page: _of(memory, page) and _section(memory) in ("SYNOPSIS", "USAGE", "EXAMPLE", "EXAMPLES"),
    ),
    "hurried": (
        "of the right page, its first passage, whatever its section",
        lambda memory, page: _of(memory, page) and memory.position == 0,
    ),
    "up to date": (
        "of the right page, what was read in the last year",
        lambda memory, page: _of(memory, page) and memory.time > 365 * DAY,
    ),
    "no taste": ("any passage of the right page", _of),
    "dice": ("one hit, thrown by dice", lambda memory, page: False),
}


def fill(store: Store, found: Sequence[Page], dice: random.Random) -> None:
    for page in found:
        batch = [
            NewMemory(
                text=text,
                author=Author(kind="file", name=page.name),
                time=dice.uniform(0, 730) * DAY,
                place=f"{page.name}: {title}",
                episode=page.name,
                position=number,
            )
            for number, (title, text) in enumerate(page.passages)
        ]
        store.add_many(batch)


def ndcg(hits: Sequence[Hit], rule: Rule, page: Page, there: int) -> float:
    gained = sum(1 / np.log2(place + 1) for place, hit in enumerate(hits[:5], 1) if rule(hit.memory, page))
    return float(gained / sum(1 / np.log2(place + 1) for place in range(1, min(5, there) + 1)))


def lived(
    store: Store, recall: Recall, found: Sequence[Page], rule: Rule, events: int, dice: random.Random
) -> tuple[int, list[float]]:
    """Events until there were enough; returns where in `found` the untouched questions begin, and seconds of each."""
    feedback = Feedback(store, recall)
    done, took = 0, list[float]()
    for number, page in enumerate(found):
        if done == events:
            return number, took
        question = Question(text=page.about)
        hits = recall.search(question)
        kept = [hit.memory.id for hit in hits if rule(hit.memory, page)]
        wild = rule is USERS["dice"][1]
        if wild or (kept and dice.random() < ERRS):
            kept = [dice.choice(hits).memory.id] if hits else []
        if kept:
            begun = time.perf_counter()
            feedback.record(question, kept)
            took.append(time.perf_counter() - begun)
            done += 1
    return len(found), took


def measured(name: str, found: Sequence[Page], events: int, seed: int, folder: Path) -> dict[str, object]:
    dice = random.Random(seed)
    order = list(found)
    dice.shuffle(order)
    store = Store(folder / f"{name}{seed}.db", clock=lambda: 730 * DAY)
    fill(store, order, dice)
    rule = USERS[name][1]
    words, vectors = LexicalIndex(store), VectorIndex(store)
    recall = Recall(store, words=words, vectors=vectors)
    asked, took = lived(store, recall, order, rule, events, dice)
    # The dice are judged by what a user without taste wants: learning from noise must not cost anything.
    judge = USERS["no taste"][1] if name == "dice" else rule
    before, after = list[float](), list[float]()
    for page in order[asked:]:
        if len(before) == HELD_OUT:
            break
        there = sum(judge(memory, page) for memory in store.episode(page.name))
        if there:
            question = Question(text=page.about, k=10)
            before.append(ndcg(recall.search(question, learned=False), judge, page, there))
            after.append(ndcg(recall.search(question), judge, page, there))
    state = Feedback(store, recall).state()
    words.close()
    vectors.close()
    store.close()
    old, new = np.array(before), np.array(after)
    return {
        "held out": len(old),
        "used": state["used"],
        "own report": state["report"],
        "nDCG@5 before": interval(old),
        "nDCG@5 after": interval(new),
        "gain": interval(new - old),
        "relative gain": round(float(new.mean() / max(old.mean(), 1e-9) - 1), 4),
        "record p50 ms": round(1000 * float(np.median(took)), 1),
        "record with learning, slowest ms": round(1000 * max(took), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1500)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--users", nargs="*", default=list(USERS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = pages(options.pages, random.Random(1))
    results: dict[str, object] = {"pages": len(found), "passages": sum(len(page.passages) for page in found)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.users:
            for seed in range(options.seeds):
                results[f"{name} {seed}"] = found_here = measured(name, found, options.events, seed, Path(folder))
                print(f"== {name} (keeps {USERS[name][0]}), seed {seed}\n{json.dumps(found_here)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
