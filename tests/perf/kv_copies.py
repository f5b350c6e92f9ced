"""How long copying blocks holds up a step in which somebody waits for a token: the step loop in this process.

    python -m tests.perf.kv_copies

Streams decode side by side past several block borders; what `Batcher.tend` takes after each such step is a reading.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import Job
from backends.kv_frames import KvGrant
from backends.proving import prove
from backends.registry import open_engine
from backends.sequences import prepare
from backends.worker import open_store
from tests.engine_runs import GREEDY, order
from tests.perf.measure import Reading, arguments, at_most, play, quantile, report
from tests.perf.processes import model_path, prompt


class Timed(Batcher):
    """Notes the milliseconds of each `tend` after a step that decoded."""

    taken: list[float]

    def tend(self) -> bool:
        decoding = any(not s.prefilling for s in self._running)
        begun = time.perf_counter()
        done = super().tend()
        if decoding:
            self.taken.append(1000 * (time.perf_counter() - begun))
        return done


def main() -> int:
    parser = arguments(__doc__ or "", rounds=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="localai-perf-") as name:
        kv = KvGrant(ram=256 * 2**20, ssd=4 * 2**30, folder=str(Path(name) / "kv"))
        load = order(model_path(options), "llama.cpp", n_ctx=8192, threads=options.threads, kv=kv)
        engine = open_engine(load, lambda *_: None)
        store = open_store(engine, load)
        governor, _ = prove(engine, load)
        batcher = Timed(engine, governor, lambda *_: None, load.step_seconds, store)
        constraints = Constraints(engine.tokenizer)

        def once(number: int) -> Reading:
            batcher.taken = []
            for stream in range(options.streams):
                tokens = prompt(200 + 14 * stream, 100 * number + stream)
                job = Job(id=stream, tokens=tokens, max_tokens=options.tokens, ignore_eos=True, sampling=GREEDY)
                batcher.add(prepare(job, engine.info(), engine.tokenizer, constraints))
            while not batcher.idle:
                batcher.turn()
            taken = batcher.taken
            shown = {"p50": quantile(taken, 0.5), "p99": quantile(taken, 0.99), "most": max(taken)}
            return {**shown, "copies": sum(ms > 0.1 for ms in taken), "steps": len(taken)}

        rounds = play(options, once)
        if store is not None:
            store.close(5.0)
        figures: list[Any] = [
            rounds.figure("p50", "ms"),
            rounds.figure("p99", "ms", at_most(5)),
            rounds.figure("most", "ms"),
            rounds.figure("copies", ""),
            rounds.figure("steps", ""),
        ]
        return report("kv_copies", options, rounds, figures)


if __name__ == "__main__":
    sys.exit(main())
