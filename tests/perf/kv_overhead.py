"""What the KV cache costs where nothing is ever asked twice: throughput, and the gaps between tokens of a stream.

    python -m tests.perf.kv_overhead

Two engine children, one with RAM and SSD and one with neither, take turns with the same fresh prompts.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from backends.contract import Job, Token
from backends.handle import EngineHandle
from backends.kv_frames import KvGrant
from tests.engine_runs import GREEDY, order
from tests.perf.load import cpu_seconds
from tests.perf.measure import Reading, arguments, at_least, at_most, gaps, play, quantile, report
from tests.perf.processes import model_path, prompt


class Side:
    """One engine child; `busy_s`, `cpu_s` and `gaps_ms` of its last turn."""

    def __init__(self, options: Any, folder: Path, kv: KvGrant) -> None:
        self._order = order(
            model_path(options), "llama.cpp", n_ctx=4096, threads=options.threads, kv=kv, extra_bufts=False
        )
        self._folder = folder
        self.busy_s = self.cpu_s = 0.0
        self.gaps_ms: list[float] = []

    async def start(self) -> None:
        self._handle = await EngineHandle.start(self._order, log=self._folder / "log", on_stage=lambda *_: None)

    async def turn(self, options: Any, number: int) -> None:
        """A stream, and beside it fresh prompts one after the other; then a stream alone, while blocks are written.

        Gaps are those of the second: beside a prompt they are as long as its steps, whatever the cache does.
        """
        begun, cpu = time.monotonic(), cpu_seconds(psutil.Process(self._handle.pid))
        self.gaps_ms = []
        stream = asyncio.create_task(self._run(prompt(64, number), options.stream, []))
        for extra in range(options.prompts):
            await self._run(prompt(options.tokens, 1000 * number + extra + 1), 8, [])
        await stream
        self.busy_s = time.monotonic() - begun
        self.cpu_s = cpu_seconds(psutil.Process(self._handle.pid)) - cpu
        await self._run(prompt(options.tokens, 1000 * number), options.stream, self.gaps_ms)

    async def _run(self, tokens: list[int], most: int, into: list[float]) -> None:
        times = []
        job = Job(id=0, tokens=tokens, max_tokens=most, ignore_eos=True, sampling=GREEDY)
        async for event in self._handle.run(job):
            if isinstance(event, Token):
                times.append(time.monotonic())
        into += [1000 * gap for gap in gaps(times)]

    async def stop(self) -> None:
        await self._handle.stop()


def main() -> int:
    parser = arguments(__doc__ or "", rounds=5)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--stream", type=int, default=300, help="tokens of the stream beside them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="localai-perf-") as name, asyncio.Runner() as runner:
        folder = Path(name)
        kv = KvGrant(ram=256 * 2**20, ssd=4 * 2**30, folder=str(folder / "kv"))
        sides = {"on": Side(options, folder, kv), "off": Side(options, folder, KvGrant())}
        for side in sides.values():
            runner.run(side.start())

        def once(number: int) -> Reading:
            found: Reading = {}
            # Whoever is second meets a warmer machine, so they take turns at that too.
            for label in sorted(sides, reverse=bool(number % 2)):
                side = sides[label]
                runner.run(side.turn(options, number))
                found |= {
                    f"{label}_s": side.busy_s,
                    f"{label}_cpu_s": side.cpu_s,
                    f"{label}_p99_ms": quantile(side.gaps_ms, 0.99),
                }
            return found | {"delay_ms": found["on_p99_ms"] - found["off_p99_ms"]}

        rounds = play(options, once)
        for side in sides.values():
            runner.run(side.stop())
    figures = [
        rounds.ratio("throughput with / without", "off_s", "on_s", at_least(0.97)),
        rounds.ratio("CPU time with / without", "on_cpu_s", "off_cpu_s", at_most(1.03)),
        rounds.figure("on_p99_ms", "ms"),
        rounds.figure("off_p99_ms", "ms"),
        rounds.figure("delay_ms", "ms", at_most(5)),
    ]
    return report("kv_overhead", options, rounds, figures)


if __name__ == "__main__":
    sys.exit(main())
