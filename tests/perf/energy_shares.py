"""CPU time of requests that run side by side, against the same requests alone; and what metering costs.

    python -m tests.perf.energy_shares [ROUNDS]

Interleaved rounds on the starter model. Answers are of fixed lengths. Prints medians as JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from backends.contract import Share, StepRecord
from localai.energy.meter import Meter
from localai.energy.sensors import find
from tests.daemon_fixture import Daemon, running

LENGTHS = (48, 96)
STEP_S = 0.007


@dataclass(frozen=True, slots=True)
class Busy:
    """Stands for an engine that runs in a process."""

    pid: int
    info: None = None


def cpu_seconds(daemon: Daemon, tokens: int) -> float:
    text = f"Write a very long story about {tokens} foxes."
    answer = daemon.chat(text, max_tokens=tokens, ignore_eos=True, seed=time.monotonic_ns() % 1000)
    return float(answer.json["usage"]["energy"]["cpu_seconds"])


def side_by_side(daemon: Daemon) -> list[float]:
    found: dict[int, float] = {}

    def one(tokens: int) -> None:
        found[tokens] = cpu_seconds(daemon, tokens)

    threads = [threading.Thread(target=one, args=(tokens,)) for tokens in LENGTHS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[tokens] for tokens in LENGTHS]


def shares(rounds: int) -> dict[str, Any]:
    alone: list[list[float]] = []
    together: list[list[float]] = []
    with running() as daemon:
        side_by_side(daemon)
        for _ in range(rounds):
            alone.append([cpu_seconds(daemon, tokens) for tokens in LENGTHS])
            together.append(side_by_side(daemon))
    own = [statistics.median(row[i] for row in alone) for i in range(2)]
    mixed = [statistics.median(row[i] for row in together) for i in range(2)]
    return {
        "lengths": LENGTHS,
        "alone_s": own,
        "side_by_side_s": mixed,
        "saved_by_batching": 1 - sum(mixed) / sum(own),
        "share_alone": own[1] / sum(own),
        "share_side_by_side": mixed[1] / sum(mixed),
    }


def cost() -> dict[str, float]:
    """Microseconds that the daemon spends per step, and the sampler's share of a core."""
    meter = Meter(find())
    tap = meter.tap(("a", "b", ""))
    meter.open(1, ("a", "b", ""))
    meter.ready(("a", "b", ""), Busy(os.getpid()))  # type: ignore[arg-type]
    (sampler,) = (thread for thread in threading.enumerate() if thread.name == "energy")
    clock = time.pthread_getcpuclockid(sampler.ident or 0)
    spent, begin, cpu, count = 0.0, time.monotonic(), time.clock_gettime(clock), 0
    while (now := time.monotonic()) - begin < 5:
        time.sleep(STEP_S)
        own = time.thread_time()
        tap(StepRecord(now, time.monotonic(), STEP_S, 2, [Share(1, 0, 1, count)]))
        spent += time.thread_time() - own
        count += 1
    core = (time.clock_gettime(clock) - cpu) / (time.monotonic() - begin)
    meter.end(1)
    meter.close()
    return {"us_per_step": 1e6 * spent / count, "share_of_a_step": spent / count / STEP_S, "sampler_core": core}


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(json.dumps({**cost(), **shares(rounds)}, indent=1))
