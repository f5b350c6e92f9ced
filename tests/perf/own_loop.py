"""An engine's own loop: the engine and `Sampler`, no server, no batcher, in a process of its own.

Arguments: a `contract.Load` as JSON. Then lines of `{"prompts": [[id, ...], ...], "max_tokens": n}` enter, and the
monotonic times of all steps leave as `{"started": t, "prefilled": t, "steps": [t, ...]}`; the prompts share the steps.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import msgspec

from backends.contract import Load, Sampling
from backends.engine import Engine, Slice
from backends.registry import open_engine
from backends.sampling import Sampler


def generate(engine: Engine, prompts: list[list[int]], most: int) -> dict[str, Any]:
    """Prefill one prompt after the other in full batches, then decode `most` tokens of each, greedily."""
    info = engine.info()
    bans = dict.fromkeys(engine.tokenizer.eog, -math.inf)
    sampling = Sampling(temperature=0.0, logit_bias=bans)
    samplers = [Sampler(sampling, engine.tokenizer.pointer, info.n_vocab, info.n_ctx_train, 0) for _ in prompts]
    for seq in range(len(prompts)):
        engine.drop(seq)
    started = time.monotonic()
    latest = [_prefill(engine, seq, tokens, samplers[seq]) for seq, tokens in enumerate(prompts)]
    steps = [time.monotonic()]
    for done in range(1, most):
        batch = [Slice(seq, [token], len(prompts[seq]) + done - 1, "last") for seq, token in enumerate(latest)]
        rows = engine.step(batch)
        for seq, row in enumerate(rows):
            assert row is not None
            latest[seq] = samplers[seq].sample(row[-1])
            samplers[seq].accept(latest[seq])
            engine.tokenizer.piece(latest[seq])
        steps.append(time.monotonic())
    return {"started": started, "steps": steps}


def _prefill(engine: Engine, seq: int, tokens: list[int], sampler: Sampler) -> int:
    size = engine.info().n_batch
    for pos in range(0, len(tokens), size):
        part = tokens[pos : pos + size]
        row = engine.step([Slice(seq, part, pos, "last" if pos + size >= len(tokens) else "none")])[0]
    assert row is not None
    return sampler.sample(row[-1])


def main() -> None:
    engine = open_engine(msgspec.json.decode(sys.argv[1], type=Load), lambda stage, fraction: None)

    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(generate(engine, order["prompts"], order["max_tokens"])), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
