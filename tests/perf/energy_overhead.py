"""Decode throughput of an engine with and without metering: python -m tests.perf.energy_overhead [ROUNDS].

Rounds are interleaved. Prints medians of token/s and of the ratio within a round as JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from backends.contract import Job, Sampling, StepRecord
from backends.handle import EngineHandle, new_number
from localai.energy.meter import Meter
from localai.energy.sensors import find
from tests.engine_runs import STARTER, order

KEY = ("starter", "llama.cpp", "")
TOKENS = 128


async def rates(rounds: int) -> dict[str, float]:
    """Medians of token/s, and of the ratio within a round."""
    meter, metered = Meter(find()), False
    tap = meter.tap(KEY)

    def on_step(record: StepRecord) -> None:
        if metered:
            tap(record)

    load = order(STARTER, "llama.cpp", n_ctx=1024, n_seq=2)
    with tempfile.TemporaryDirectory() as folder:
        handle = await EngineHandle.start(load, log=Path(folder) / "log", on_stage=lambda *_: None, on_step=on_step)
        meter.ready(KEY, handle)
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * rounds + 2):
            metered = number % 4 in (1, 2)
            job = Job(
                id=new_number(), tokens=[1, 2, 3], max_tokens=TOKENS, ignore_eos=True, sampling=Sampling(temperature=0)
            )
            if metered:
                meter.open(job.id, KEY)
            begin = time.monotonic()
            async for _ in handle.run(job):
                pass
            if metered:
                meter.end(job.id)
            if number > 1:
                found[metered].append(TOKENS / (time.monotonic() - begin))
        await handle.stop()
    meter.close()
    ratios = [a / b for a, b in zip(found[True], found[False], strict=True)]
    return {
        "plain_tps": statistics.median(found[False]),
        "metered_tps": statistics.median(found[True]),
        "ratio": statistics.median(ratios),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(rates(int(sys.argv[1]) if len(sys.argv) > 1 else 10)), indent=1))
