"""The MLX engine against mlx-lm's own loop on the same folder: prefill and decode rates, interleaved, as medians.

Without --model the starter is written as a folder in 4 bits first. A ratio of 1 means as fast as mlx-lm. Beside other
programs --cpu compares more steadily: it counts processor seconds, which on one thread are the time alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from backends.contract import Load
from backends.engine import Engine, Slice
from backends.registry import open_engine
from tests.engine_runs import STARTER
from tests.mlx_folders import mlx_folder

LIMIT = 0.95
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second."""

    prefill: float
    decode: float


def own(engine: Engine, prompt: list[int], count: int, clock: Clock) -> Rates:
    """Greedy decoding through the engine's contract, in steps of at most its batch."""
    engine.drop(0)
    size, begun = engine.info().n_batch, clock()
    for pos in range(0, len(prompt), size):
        part = prompt[pos : pos + size]
        logits = engine.step([Slice(0, part, pos, "last")])[0]
    assert logits is not None
    token, filled = int(logits[0].argmax()), clock()
    for pos in range(len(prompt), len(prompt) + count):
        logits = engine.step([Slice(0, [token], pos, "last")])[0]
        assert logits is not None
        token = int(logits[0].argmax())
    ended = clock()
    return Rates(len(prompt) / (filled - begun), count / (ended - filled))


def reference(model: nn.Module, prompt: list[int], count: int, clock: Clock) -> Rates:
    """The same through `generate_step`, whose first token comes when the prompt is through."""
    begun = clock()
    steps = generate_step(mx.array(prompt), model, max_tokens=count + 1)
    next(steps)
    filled = clock()
    taken = sum(1 for _ in steps)
    ended = clock()
    return Rates(len(prompt) / (filled - begun), taken / (ended - filled))


def compare(folder: Path, mode: str, prompt: int, count: int, rounds: int, clock: Clock) -> list[tuple[Rates, Rates]]:
    """Rates of the engine and of mlx-lm, a pair for each round; one round before them warms both up."""
    load = Load(backend="mlx", path=str(folder), n_ctx=prompt + count + 64, n_seq=1, threads=2, mode=mode)
    engine = open_engine(load, lambda *_: None)
    model, _ = load_model(folder)
    tokens = [1000 + 7 * n for n in range(prompt)]
    own(engine, tokens[:8], 2, clock)
    reference(model, tokens[:8], 2, clock)
    found = []
    for index in range(rounds):
        # Who goes first changes, so that a drift of the machine hits both.
        if index % 2:
            theirs = reference(model, tokens, count, clock)
            found.append((own(engine, tokens, count, clock), theirs))
        else:
            found.append((own(engine, tokens, count, clock), reference(model, tokens, count, clock)))
    engine.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder as mlx-lm writes it")
    parser.add_argument("--mode", default="", help="how the engine computes; mlx-lm has one way")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="count processor seconds instead of the time on the wall")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or mlx_folder(STARTER, Path(scratch), bits=4)
        clock = time.process_time if options.cpu else time.perf_counter
        found = compare(folder, options.mode, options.prompt, options.count, options.rounds, clock)
    ratios = Rates(
        median(ours.prefill / theirs.prefill for ours, theirs in found),
        median(ours.decode / theirs.decode for ours, theirs in found),
    )
    if options.json:
        rounds = [{"engine": asdict(ours), "mlx-lm": asdict(theirs)} for ours, theirs in found]
        print(json.dumps({"limit": LIMIT, "ratios": asdict(ratios), "rounds": rounds}))
    else:
        for part in ("prefill", "decode"):
            rates = [[getattr(each, part) for each in pair] for pair in found]
            ours, theirs = (median(column) for column in zip(*rates, strict=True))
            ratio = getattr(ratios, part)
            print(f"{part:8} engine {ours:8.2f}  mlx-lm {theirs:8.2f} token/s  ratio {ratio:.2f}")
    return 0 if min(ratios.prefill, ratios.decode) >= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
