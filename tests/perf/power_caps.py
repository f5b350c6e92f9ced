"""Throughput and energy of decode at three power caps and without one, interleaved.

    python -m tests.perf.power_caps [ROUNDS]

Caps are shares of what the engine draws by itself. Prints medians per cap as JSON: token/s, mean watts over the
time of the answer, joules per token, and the quality of the joules.
"""

from __future__ import annotations

import json
import statistics
import sys
from contextlib import ExitStack
from typing import Any

from tests.daemon_fixture import Daemon, running

SHARES = (0.75, 0.5, 0.25)
CPU_WATTS = 10.0
TOKENS = 96


def decoded(daemon: Daemon) -> dict[str, Any]:
    answer = daemon.chat("Tell me a long story about foxes.", max_tokens=TOKENS, ignore_eos=True).json
    energy, seconds = answer["usage"]["energy"], answer["timings"]["total_ms"] / 1000
    return {
        "tps": TOKENS / seconds,
        "watts": energy["joules"] / seconds,
        "joules_per_token": energy["joules"] / TOKENS,
        "quality": energy["quality"],
    }


def curve(rounds: int) -> dict[str, Any]:
    plain = {"LOCALAI_CPU_WATTS": str(CPU_WATTS), "LOCALAI_CALIBRATE": "0", "LOCALAI_THREADS": "1"}
    with ExitStack() as stack:
        daemons = {1.0: stack.enter_context(running(**plain))}
        for _ in range(3):
            full = decoded(daemons[1.0])
        for share in SHARES:
            cap = str(share * full["watts"])
            daemons[share] = stack.enter_context(running(**plain, LOCALAI_POWER_CAP=cap))
            for _ in range(3):
                decoded(daemons[share])
        rows: dict[float, list[dict[str, Any]]] = {share: [] for share in daemons}
        for _ in range(rounds):
            for share, daemon in daemons.items():
                rows[share].append(decoded(daemon))
    return {
        "full_watts": full["watts"],
        "quality": full["quality"],
        "caps": {
            f"{share:.0%}": {
                name: round(statistics.median(row[name] for row in each), 3)
                for name in ("tps", "watts", "joules_per_token")
            }
            for share, each in rows.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(curve(int(sys.argv[1]) if len(sys.argv) > 1 else 5), indent=1))
