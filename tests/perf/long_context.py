"""Contexts longer than memory: what paging keys and values to the SSD costs in accuracy and speed.

python -m tests.perf.long_context [--context 8000] [--ram 1000] [--attend 0] [--rounds 6] [--without-full]
Reads the README and a generated story with facts hidden in it, then asks for them, lets the text go on, copies passages
of it, and lists its subjects. All of that is fed token by token, so that every token of it attends to what was chosen.
The same is asked of the engine with its whole cache in RAM, also with the last tokens alone that the RAM holds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from backends.engine import Engine, Floats, Slice
from backends.kv_paging import Paging
from backends.registry import open_engine
from tests.engine_runs import STARTER, order

TOKEN_BYTES = 2 * 30 * 3 * 64 * 4
"""Of keys and values of the starter model in float32."""
_PLACES = [
    "harbour",
    "mill",
    "garden",
    "library",
    "station",
    "bakery",
    "chapel",
    "school",
    "market",
    "theatre",
    "forge",
    "orchard",
]
_WORDS = [
    "silver",
    "winter",
    "paper",
    "orange",
    "thunder",
    "castle",
    "river",
    "copper",
    "marble",
    "coffee",
    "shadow",
    "button",
]
_WHO = ["The keeper", "A visitor", "The old clerk", "My neighbour", "The night guard", "A young painter", "The teacher"]
_DID = [
    "walked past",
    "wrote about",
    "repaired",
    "measured",
    "described",
    "photographed",
    "cleaned",
    "visited",
    "painted",
]
_WHAT = [
    "the door",
    "the roof",
    "a lamp",
    "the stairs",
    "the garden wall",
    "a window",
    "the wooden bench",
    "the gate",
    "the well",
]
_WHEN = [
    "in the morning",
    "after lunch",
    "before the rain",
    "at dusk",
    "on Sunday",
    "during the fair",
    "without a word",
]
_DECODES = 16


def story(seed: int, sections: int, sentences: int) -> list[str]:
    """A section for each place in turn, with a heading; the same seed gives the same text."""
    draw = random.Random(seed)
    told = []
    for number in range(sections):
        place = _PLACES[number % len(_PLACES)]
        lines = [
            f"{draw.choice(_WHO)} {draw.choice(_DID)} {draw.choice(_WHAT)} of the {place} {draw.choice(_WHEN)}."
            for _ in range(sentences)
        ]
        told.append(f"\n\nChapter {number + 1}: the {place}.\n" + " ".join(lines))
    return told


@dataclass(slots=True)
class Task:
    """`asked` is fed, then `answer`, whose tokens are scored; `among` are single tokens among which it is sought."""

    kind: str
    asked: list[int]
    answer: list[int]
    among: list[int] = field(default_factory=list)


def material(engine: Engine, context: int) -> tuple[list[int], list[Task]]:
    """The text of about `context` tokens less room for the tasks, and the tasks."""

    def ids(text: str) -> list[int]:
        return engine.tokenizer.encode(text, special=False, add_bos=False)

    told = story(1, 12, max(24, (context - 400) // 450))
    secrets = dict(zip(_PLACES, _WORDS, strict=True))
    for number, place in enumerate(_PLACES):
        lines = told[number].split(". ")
        lines.insert(3 + (7 * number) % 18, f"The secret word of the {place} is {secrets[place]}")
        told[number] = ". ".join(lines)
    readme = ids(Path("README.md").read_text(encoding="utf-8"))[: (context - 400) * 2 // 3]
    text = [*readme, *ids("".join(told))][: context - 400]
    among = [ids(f" {word}")[0] for word in _WORDS]
    tasks = [
        Task("needle", ids(f"\n\nThe secret word of the {place} is"), ids(f" {word}")[:1], among)
        for place, word in secrets.items()
    ]
    passages = [text[at : at + 72] for at in range(200, len(readme) - 80, len(readme) // 5)]
    tasks += [Task("copy", [*ids("\n\n"), *part[:24]], part[24:]) for part in passages]
    listed = "".join(f" {number + 1}. the {place};" for number, place in enumerate(_PLACES))
    tasks.append(Task("summary", ids("\n\nSummary. The chapters are, in order:"), ids(listed)))
    tasks.append(Task("continue", ids("\n\nChapter 13: the harbour.\n"), ids(story(2, 1, 12)[0].split("\n")[-1])))
    return text, tasks


def read_prompt(engine: Engine, tokens: Sequence[int]) -> float:
    """Prefill `tokens`; returns the seconds."""
    begun, size = time.monotonic(), engine.info().n_batch
    for at in range(0, len(tokens), size):
        engine.step([Slice(0, tokens[at : at + size], at, "last")])
    return time.monotonic() - begun


def token_by_token(engine: Engine, tokens: Sequence[int], pos: int) -> list[Floats]:
    """The logits after each of `tokens`."""
    rows = []
    for at, token in enumerate(tokens):
        found = engine.step([Slice(0, [token], pos + at, "last")])[0]
        assert found is not None
        rows.append(found[-1].copy())
    return rows


def answers(engine: Engine, tasks: Sequence[Task], pos: int) -> list[Floats]:
    """For each task the logits that predict its answer, (answer, vocab); the sequence ends as it was."""
    found = []
    for task in tasks:
        rows = token_by_token(engine, [*task.asked, *task.answer[:-1]], pos)
        found.append(np.array(rows[len(task.asked) - 1 :]))
        engine.trim(0, pos)
    return found


def judged(tasks: Sequence[Task], found: Sequence[Floats], against: Sequence[Floats] | None) -> dict[str, Any]:
    """By kind of task: how often the right token came first, its perplexity, and agreement with the full cache."""
    report: dict[str, Any] = {}
    for kind in dict.fromkeys(task.kind for task in tasks):
        own = [(i, task, found[i]) for i, task in enumerate(tasks) if task.kind == kind]
        rows = np.concatenate([logits for _, _, logits in own])
        right = np.concatenate([task.answer for _, task, _ in own])
        shifted = rows - rows.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        shown: dict[str, Any] = {
            "tokens": len(right),
            "top1": round(float((rows.argmax(axis=1) == right).mean()), 3),
            "perplexity": round(float(np.exp(-logs[np.arange(len(right)), right].mean())), 3),
        }
        if own[0][1].among:
            best = [task.among[int(logits[-1][task.among].argmax())] for _, task, logits in own]
            shown["found"] = sum(token == task.answer[0] for token, (_, task, _) in zip(best, own, strict=True))
        if against is not None:
            theirs = np.concatenate([against[i] for i, _, _ in own])
            shown["same_as_full"] = round(float((rows.argmax(axis=1) == theirs.argmax(axis=1)).mean()), 3)
        report[kind] = shown
    return report


@contextmanager
def peak() -> Iterator[list[int]]:
    """Watch the resident bytes of this process; the list ends with the largest."""
    seen, over, process = [0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not over.wait(0.02):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def paired_speed(paged: Engine, full: Engine, tokens: Sequence[int], rounds: int) -> dict[str, Any]:
    """Milliseconds per decoded token behind `tokens`, in turns."""
    taken: dict[str, list[float]] = {"paged": [], "full": []}
    for _ in range(rounds):
        for name, engine in (("paged", paged), ("full", full)):
            begun = time.monotonic()
            token_by_token(engine, tokens[100 : 100 + _DECODES], len(tokens))
            taken[name].append(1000 * (time.monotonic() - begun) / _DECODES)
            engine.trim(0, len(tokens))
    ratios = [one / other for one, other in zip(taken["full"], taken["paged"], strict=True)]
    found: dict[str, Any] = {f"{name}_ms": round(median(values), 1) for name, values in taken.items()}
    return found | {"paged_to_full_speed": round(median(ratios), 3), "rounds": [round(each, 2) for each in ratios]}


def opened(mode: str, context: int, cache: str, paging: Paging) -> Engine:
    load = order(STARTER, "onnx", mode=mode, n_ctx=context, n_seq=1, threads=2, cache=cache, paging=paging)
    return open_engine(load, lambda *_: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--ram", type=int, default=1000, help="tokens whose keys and values may lie in RAM")
    parser.add_argument("--attend", type=int, default=0, help="tokens that a token attends to; 0 is what the RAM holds")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cache", default="", help="a folder that keeps converted graphs")
    parser.add_argument("--without-full", action="store_true", help="leave out the full cache")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        run(given, Path(folder))


def run(given: argparse.Namespace, folder: Path) -> None:
    cache = given.cache or str(folder)
    paging = Paging(ram=given.ram * TOKEN_BYTES, ssd=2**31, folder=str(folder / "pages"), tokens=given.attend)
    paged = opened("paged", given.context, cache, paging)
    text, tasks = material(paged, given.context)
    paged.step([Slice(0, text[:256], 0, "last")])
    paged.drop(0)
    loaded = psutil.Process().memory_info().rss
    with peak() as most:
        prefill = read_prompt(paged, text)
        token_by_token(paged, text[:32], len(text))
        paged.trim(0, len(text))
    from_paged = answers(paged, tasks, len(text))
    use = paged.paged_use()
    report: dict[str, Any] = {
        "tokens": len(text),
        "settings": paged.info().settings,
        "kv_ram_tokens": round(paged.info().kv_bytes / TOKEN_BYTES, 1),
        "rss_after_256_tokens_mb": loaded >> 20,
        "rss_peak_mb": most[0] >> 20,
        "paged_prefill_s": round(prefill, 1),
        "selected_share": round(use.attended / max(1, use.held), 3),
        "ssd_mb": use.ssd_bytes >> 20,
        "ssd_read_mb": use.read_bytes >> 20,
    }
    print(json.dumps(report | {"paged": judged(tasks, from_paged, None)}), flush=True)
    if given.without_full:
        return
    full = opened("", given.context, cache, Paging())
    report["full_prefill_s"] = round(read_prompt(full, text), 1)
    from_full = answers(full, tasks, len(text))
    report["speed"] = paired_speed(paged, full, text, given.rounds)
    full.drop(0)
    last = text[-given.ram :]
    read_prompt(full, last)
    from_last = answers(full, tasks, len(last))
    report["full"] = judged(tasks, from_full, None)
    report["paged"] = judged(tasks, from_paged, from_full)
    report["last_tokens_alone"] = judged(tasks, from_last, from_full)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
