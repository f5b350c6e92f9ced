"""An engine of any backend, step by step, in a process of its own: what a step costs, with nothing around it.

Arguments: a `contract.Load` as JSON. Then lines of `{"sequences": n, "ops": [["prefill", tokens], ["decode", steps]]}`
enter; every sequence starts empty and goes through all `ops`. What leaves is, for each operation, the seconds of its
steps and their CPU seconds: `[{"seconds": [...], "cpu_s": [...]}, ...]` as `{"ops": ...}`. A decode forgets its tokens.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from backends.contract import Load
from backends.engine import Engine, Slice
from backends.registry import open_engine

_WARM_TOKENS, _WARM_STEPS = 16, 4


class Stepper:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._random = random.Random(0)
        self._depth = 0

    def run(self, order: dict[str, Any]) -> list[dict[str, list[float]]]:
        count = order["sequences"]
        self._warm(count)
        return [
            self._prefill(count, amount) if kind == "prefill" else self._decode(count, amount)
            for kind, amount in order["ops"]
        ]

    def _warm(self, count: int) -> None:
        """Steps that do not count: the first ones after a rest find caches cold and threads asleep."""
        self._depth = 0
        for seq in range(count):
            self._engine.drop(seq)
        self._prefill(count, _WARM_TOKENS)
        self._decode(count, _WARM_STEPS)
        for seq in range(count):
            self._engine.drop(seq)
        self._depth = 0

    def _prefill(self, count: int, tokens: int) -> dict[str, list[float]]:
        found = [self._timed([Slice(seq, self._ids(tokens), self._depth, "last")]) for seq in range(count)]
        self._depth += tokens
        return _columns(found)

    def _decode(self, count: int, steps: int) -> dict[str, list[float]]:
        found = [
            self._timed([Slice(seq, self._ids(1), self._depth + step, "last") for seq in range(count)])
            for step in range(steps)
        ]
        for seq in range(count):
            if not self._engine.trim(seq, self._depth):
                raise SystemExit("this model cannot forget single tokens")
        return _columns(found)

    def _timed(self, batch: Sequence[Slice]) -> tuple[float, float]:
        t0, cpu0 = time.perf_counter(), time.process_time()
        self._engine.step(batch)
        return time.perf_counter() - t0, time.process_time() - cpu0

    def _ids(self, count: int) -> list[int]:
        return self._random.choices(range(100, self._engine.info().n_vocab), k=count)


def _columns(found: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    return {"seconds": [wall for wall, _ in found], "cpu_s": [cpu for _, cpu in found]}


def main() -> None:
    engine = open_engine(msgspec.json.decode(sys.argv[1], type=Load), lambda stage, fraction: None)
    print(json.dumps({"version": engine.info().version}), flush=True)
    stepper = Stepper(engine)
    for line in sys.stdin:
        print(json.dumps({"ops": stepper.run(json.loads(line))}), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
