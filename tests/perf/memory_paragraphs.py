"""Invented facts, several to a paragraph: how often a model answers right from what the memory shows it.

    python -m tests.perf.memory_paragraphs [--set "paragraph"]... [--questions 50] [--seed 1] [-m MODEL] [--bare]

Every document is a file that is read into a namespace of its set, as `localai memory add --file` does; every question
is an ordinary chat request over the daemon's socket, at temperature 0. `--bare` also asks without the memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from localai.bench.memory_size import client
from localai.bench.scoring import right
from localai.bench.stats import mcnemar, wilson
from localai.bench.tasks import Item
from localai.client import Client
from tests.daemon_fixture import running
from tests.paragraph_facts import SETS, Asked, Set

ROUTE = "/localai/memory"
_TOKENS = 32


def remembered(daemon: Client, folder: Path, known: Set, namespace: str) -> dict[str, int]:
    """Ids of memories with the numbers of their documents."""
    folder.mkdir()
    paths = []
    for number, text in enumerate(known.documents):
        path = folder / f"note-{number}.md"
        path.write_text(text, encoding="utf-8")
        paths.append(str(path))
    for start in range(0, len(paths), 100):
        body = {"paths": paths[start : start + 100], "namespace": namespace}
        problems = [each for each in daemon.post(f"{ROUTE}/files", body, timeout=None)["files"] if each["problem"]]
        assert not problems, problems[0]
    found = daemon.get(f"{ROUTE}?namespace={namespace}&limit=1000")["memories"]
    assert len(found) == len(paths)
    return {each["id"]: int(each["place"].partition(".")[0].rpartition("-")[2]) for each in found}


def answered(daemon: Client, asked: Asked, model: str, namespace: str | None) -> tuple[bool, dict[str, Any]]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": asked.question}], "max_tokens": _TOKENS}
    body |= {"temperature": 0, "seed": 0} | ({"model": model} if model else {})
    body |= {"memory": namespace} if namespace else {}
    answer = daemon.post("/v1/chat/completions", body, timeout=None)
    item = Item(id="", category="memory", kind="chat", scorer="number", prompt="", answers=(str(asked.key),))
    return right(item, answer["choices"][0]["message"]["content"] or ""), answer


def row(
    daemon: Client, known: Set, model: str, namespace: str, documents: dict[str, int], bare: bool
) -> dict[str, Any]:
    verdicts, without, shown, tokens = [], [], [], []
    begun = time.monotonic()
    for asked in known.asked:
        good, answer = answered(daemon, asked, model, namespace)
        verdicts.append(good)
        shown.append(asked.document in {documents[each["id"]] for each in answer["memories"]})
        tokens.append(answer["usage"]["prompt_tokens"])
    seconds = (time.monotonic() - begun) / len(known.asked)
    if bare:
        without = [answered(daemon, asked, model, None)[0] for asked in known.asked]
    share = wilson(sum(verdicts), len(verdicts))
    told = {
        "questions": len(verdicts),
        "right": sum(verdicts),
        "low": round(share.low, 2),
        "high": round(share.high, 2),
    }
    told |= {"shown": sum(shown), "prompt_tokens": round(sum(tokens) / len(tokens)), "seconds": round(seconds, 2)}
    told |= {"verdicts": "".join("+" if each else "-" for each in verdicts)}
    if bare:
        more = sum(a and not b for a, b in zip(verdicts, without, strict=True))
        less = sum(b and not a for a, b in zip(verdicts, without, strict=True))
        told |= {"right without": sum(without), "more": more, "less": less, "p": mcnemar(more, less)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", action="append", choices=list(SETS))
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-m", "--model", default="")
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    with running(LOCALAI_THREADS="2", LOCALAI_KV_SSD="0") as started, tempfile.TemporaryDirectory() as folder:
        daemon = client(started.socket)
        for place, name in enumerate(given.sets or SETS):
            known, namespace = SETS[name](given.questions, given.seed), f"set-{place}"
            documents = remembered(daemon, Path(folder) / namespace, known, namespace)
            answered(daemon, known.asked[0], given.model, namespace)
            print(json.dumps({"set": name, **row(daemon, known, given.model, namespace, documents, given.bare)}))


if __name__ == "__main__":
    main()
