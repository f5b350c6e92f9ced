"""What guessing tokens gains: decode rates with and without it, interleaved in one process, with the texts compared.

`rewrite` repeats its input with small changes, `fresh` repeats nothing. Where texts differ, `gap` is by how much the
two likeliest logits differed at the first token that does. With --prompts N, greedy answers to N prompts (a third each
to copy, to edit and to write freely) are compared instead. Prints one JSON object. The count of threads is fixed, as
other counts round otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from typing import Any

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Event, Finish, Job, Load, Sampling, StepRecord, Token
from backends.engine import Engine
from backends.guesses import Speculation
from backends.proving import prove
from backends.registry import open_engine
from backends.sequences import prepare
from backends.threads import ThreadGovernor
from backends.worker import open_draft
from tests.engine_runs import STARTER

_CODE = """def area(width, height):
    result = width * height
    print("the area is", result)
    return result


def volume(width, height, depth):
    result = width * height * depth
    print("the volume is", result)
    return result


def average(numbers):
    total = 0
    for number in numbers:
        total = total + number
    result = total / len(numbers)
    print("the average is", result)
    return result


def largest(numbers):
    result = numbers[0]
    for number in numbers:
        if number > result:
            result = number
    print("the largest is", result)
    return result
"""
TASKS = {
    "rewrite": ("\n# rewritten:\n".join((_CODE, _CODE, _CODE[:75])), 0.0),
    "fresh": ("A story about a lighthouse keeper who finds a letter, in rich and varied words:\n\n", 1.0),
}
"""Prompt and temperature: greedy, a small model soon repeats itself whatever it is asked."""


class Bench:
    """One engine and its step loop."""

    def __init__(self, options: argparse.Namespace) -> None:
        order = Load(
            backend=options.backend,
            path=str(options.model),
            n_ctx=4096,
            n_seq=4,
            threads=options.threads,
            mode=options.mode,
            kv_type=options.kv_type,
            draft=options.draft,
            extra_bufts=False,
            cache=options.cache,
        )
        self.engine: Engine = open_engine(order, lambda *_: None)
        proved, _ = prove(self.engine, order)
        self._governor = ThreadGovernor((options.threads,))
        self._governor.costs[options.threads] = proved.costs[options.threads]
        self.engine.set_threads(options.threads)
        self._draft = open_draft(self.engine, order)
        self._step_s = order.step_seconds
        self._constraints = Constraints(self.engine.tokenizer)
        self._number = 0
        self._events: list[Event] = []

    def _emit(self, events: list[Event], record: StepRecord | None) -> None:
        self._events += events

    def run(
        self, prompt: str, most: int, sampling: Sampling, speculation: Speculation, logprobs: int | None = None
    ) -> dict[str, Any]:
        """Decode once; tokens per second behind the first one, and the ids."""
        self._number += 1
        self._events.clear()
        job = Job(
            id=self._number,
            tokens=self.engine.tokenizer.encode(prompt, special=True, add_bos=False),
            max_tokens=most,
            sampling=sampling,
            ignore_eos=True,
            speculation=speculation,
            logprobs=logprobs,
        )
        # With empty cells each time, so that all runs read the prompt in the same steps.
        for seq in range(self.engine.info().n_seq):
            self.engine.drop(seq)
        batcher = Batcher(self.engine, self._governor, self._emit, self._step_s, draft=self._draft)
        batcher.add(prepare(job, self.engine.info(), self.engine.tokenizer, self._constraints))
        while not batcher.idle:
            batcher.turn()
        end = next(e for e in self._events if isinstance(e, Finish))
        return {
            "ids": [e.id for e in self._events if isinstance(e, Token)],
            "rate": (end.usage.completion_tokens - 1) / end.usage.decode_s,
            "drafted": end.usage.guesses.drafted,
            "accepted": end.usage.guesses.accepted,
            "by": end.usage.guesses.said,
            "gaps": [_gap(e) for e in self._events if isinstance(e, Token)],
        }


def _gap(token: Token) -> float:
    """How far the likeliest token is above the second; the logarithm leaves differences of logits as they are."""
    top = token.logprob.top if token.logprob else []
    return top[0].logprob - top[1].logprob if len(top) > 1 else 0.0


def compare(bench: Bench, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of on and off, each first in turn; the median of the rounds' ratios."""
    prompt, temperature = TASKS[task]
    ratios, rates, same, gaps, last = [], [], 0, [], {}
    for number in range(options.rounds + 1):
        sampling = Sampling(temperature=temperature, seed=1 + number)
        order = (True, False) if number % 2 else (False, True)
        last = {on: bench.run(prompt, options.tokens, sampling, options.speculation if on else "off") for on in order}
        if number:
            ratios.append(last[True]["rate"] / last[False]["rate"])
            rates.append((last[False]["rate"], last[True]["rate"]))
        differing = [a != b for a, b in zip(last[True]["ids"], last[False]["ids"], strict=False)]
        same += not any(differing)
        if any(differing):
            gaps.append(differing.index(True))
    scored = bench.run(prompt, options.tokens, sampling, "off", logprobs=2)["gaps"] if gaps else []
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "interval": _interval(ratios),
        "off_tps": round(statistics.median(r[0] for r in rates), 1),
        "on_tps": round(statistics.median(r[1] for r in rates), 1),
        "identical": f"{same}/{options.rounds + 1}",
        "tokens": len(last[True]["ids"]),
        "drafted": last[True]["drafted"],
        "accepted": last[True]["accepted"],
        "by": last[True]["by"],
        "gap": [round(scored[at], 3) for at in gaps if at < len(scored)],
    }


def _interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by 2,000 bootstrap samples."""
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(ratios, k=len(ratios))) for _ in range(2000))
    return round(medians[50], 3), round(medians[1949], 3)


def prompts(count: int) -> list[tuple[str, str]]:
    """Kinds and texts, a third each: source text to say again, to change, and beginnings of texts."""
    pieces = _CODE.split("\n\n\n")
    names = ("result", "number", "total", "value", "answer", "amount", "score", "length", "size", "sum")
    made: list[tuple[str, str]] = []
    for n in range(count):
        name, piece = names[n // 3 % len(names)], pieces[n // 3 % len(pieces)]
        other = pieces[(n // 3 + 1 + n // 12) % len(pieces)]
        if n % 3 == 0:
            source = f"{piece}\n\n\n{other}".replace("result", name)
            made.append(("rewrite", f"{source}\n\n# the same again:\n\n{source[:30]}"))
        elif n % 3 == 1:
            changed = piece.replace("result", name)
            made.append(("edit", f"{piece}\n# with {name}:\n{changed}\n\n{other}\n# with {name}:\n"))
        else:
            made.append(("fresh", f"Chapter {n}. The {name} of the lighthouse keeper's letters was"))
    return made


def agreement(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """How many greedy texts stay what they are without guesses, by kind, with what the guesses gained."""
    found: dict[str, Any] = {}
    for kind, text in prompts(options.prompts):
        runs = {
            way: bench.run(text, options.tokens, Sampling(temperature=0.0), way) for way in ("off", options.speculation)
        }
        off, on = runs["off"], runs[options.speculation]
        row = found.setdefault(kind, {"prompts": 0, "identical": 0, "drafted": 0, "accepted": 0, "ratios": []})
        row["prompts"] += 1
        row["identical"] += on["ids"] == off["ids"]
        row["drafted"] += on["drafted"]
        row["accepted"] += on["accepted"]
        row["ratios"].append(round(on["rate"] / off["rate"], 2))
    return {kind: row | {"ratio": statistics.median(row["ratios"])} for kind, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=STARTER)
    parser.add_argument("--draft", default="")
    parser.add_argument("--backend", default="llama.cpp")
    parser.add_argument("--mode", default="")
    parser.add_argument("--kv-type", default="f16")
    parser.add_argument("--speculation", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default="", help="folder for the graphs of onnx")
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--task", choices=TASKS, help="only this one of the two")
    options = parser.parse_args()
    bench = Bench(options)
    asked = {name: getattr(options, name) for name in ("backend", "mode", "kv_type", "threads", "speculation", "draft")}
    found = (
        agreement(bench, options)
        if options.prompts
        else {task: compare(bench, task, options) for task in ([options.task] if options.task else TASKS)}
    )
    print(json.dumps(asked | found))


if __name__ == "__main__":
    main()
