"""How often two samples of an answer agree: what `auto` assumes when it checks a small model's answer by samples.

python -m tests.perf.samples [--model starter] [--suite standard] [--samples 2]
Each comparable question is answered as `auto` answers it first, then sampled as it checks. Told are the shares of first
answers that are right and that a sample agrees with, apart for right and wrong ones, and what is right of those kept.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import Any

from localai.auto.answering import SAMPLE_TEMPERATURE, sample_seed
from localai.auto.checking import SHORT, alike, comparable
from localai.bench.scoring import right
from localai.bench.suites import generated
from localai.bench.tasks import Item
from tests.daemon_fixture import Daemon, running


def asked(daemon: Daemon, item: Item, model: str, temperature: float, seed: int) -> str:
    body: dict[str, Any] = {"model": model, "temperature": temperature, "seed": seed, "stop": list(item.stop)}
    body["max_tokens"] = min(item.max_tokens, SHORT)
    if item.kind == "chat":
        body["messages"] = [{"role": "user", "content": item.prompt}]
        first = daemon.ask("POST", "/v1/chat/completions", body, unix=True).json["choices"][0]
        return str(first["message"]["content"] or "")
    body["prompt"] = item.prompt
    return str(daemon.ask("POST", "/v1/completions", body, unix=True).json["choices"][0]["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    items = [
        item
        for item in generated(options.suite, 1).items
        if item.kind != "choice" and comparable(item.category, item.max_tokens)
    ]
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    with running() as daemon:
        for item in items:
            first = asked(daemon, item, options.model, 0.0, 0)
            correct = right(item, first)
            others = [
                asked(daemon, item, options.model, SAMPLE_TEMPERATURE, sample_seed(item.prompt, 1 + n))
                for n in range(options.samples)
            ]
            agreed = [alike(first, other, item.category) for other in others]
            for name in (item.category, "all"):
                row = counts[name]
                row[0] += 1
                row[1] += correct
                row[2] += correct and agreed[0]
                row[3] += correct and any(agreed)
                row[4] += not correct and agreed[0]
                row[5] += not correct and any(agreed)
    print(json.dumps({name: shares(*row) for name, row in sorted(counts.items())}, indent=1))


def shares(questions: int, good: int, good_one: int, good_any: int, bad_one: int, bad_any: int) -> dict[str, Any]:
    bad = questions - good
    kept = good_any + bad_any
    return {
        "questions": questions,
        "right": round(good / questions, 3),
        "agree_of_right": [round(n / good, 3) if good else None for n in (good_one, good_any)],
        "agree_of_wrong": [round(n / bad, 3) if bad else None for n in (bad_one, bad_any)],
        "kept": round(kept / questions, 3),
        "right_of_kept": round(good_any / kept, 3) if kept else None,
    }


if __name__ == "__main__":
    main()
