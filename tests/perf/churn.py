"""Hundreds of requests, many at a time, with random cancels: each one complete or cleanly cut, and nothing left behind.

A round is one such wave against the same daemon, so growth from wave to wave is a leak.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack
from typing import Any

import psutil

from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, play, report, say
from tests.perf.processes import Answer, Daemon, SseClient, model_path, prompt

_AT_ONCE = 16
_SETTLE_S = 30.0
_MIB = 2**20
_WARM_UP = 2
"""Waves: what they leave behind is more than the KV cache keeps in RAM."""


class Bench:
    """One daemon, and one wave over it. The seed is fixed, so a wave can be played again."""

    def __init__(self, client: SseClient, daemon: Daemon, count: int) -> None:
        self._client, self._daemon, self._count = client, daemon, count
        self._draw = random.Random(0)
        self._seed = 0
        # Pools of threads and memory, and the KV cache outside the cells, fill to their usual size first.
        for _ in range(_WARM_UP):
            self._wave(count)
        self._settle()
        self._before = self._memory()

    def _request(self) -> dict[str, Any]:
        """A third is cut after some tokens, a sixth after some time, often before its first token."""
        self._seed += 1
        draw, kind = self._draw, self._seed % 6
        cut: dict[str, Any] = {"stop_after": draw.randint(1, 20)} if kind in (1, 4) else {}
        if kind == 2:
            cut = {"stop_s": draw.uniform(0.0, 0.5)}
        return self._daemon.request(prompt(draw.randint(8, 256), self._seed), draw.randint(1, 48), **cut)

    def _wave(self, count: int) -> list[tuple[dict[str, Any], Answer]]:
        requests = [self._request() for _ in range(count)]
        return list(zip(requests, self._client.play(requests, _AT_ONCE), strict=True))

    def _settle(self) -> float:
        """Seconds until no request is running any more."""
        begun = time.monotonic()
        while time.monotonic() - begun < _SETTLE_S:
            if self._daemon.engine()["users"] == 0:
                return time.monotonic() - begun
            time.sleep(0.01)
        return _SETTLE_S

    def _memory(self) -> tuple[float, float]:
        engine = psutil.Process(self._daemon.engine()["pid"])
        return engine.memory_info().rss / _MIB, self._daemon.process.memory_info().rss / _MIB

    def round(self, number: int) -> Reading:
        begun = time.monotonic()
        played = self._wave(self._count)
        taken = time.monotonic() - begun
        settled = self._settle()
        left = self._daemon.engine()["users"]
        engine, daemon = self._memory()
        fresh = self._client.play([self._daemon.request(prompt(16, -self._seed), 1)])[0]
        states = [_state(request, answer) for request, answer in played]
        for state in sorted(set(states) - {"complete", "cancelled"}):
            say(f"  {states.count(state)} x {state}")
        return {
            "complete": states.count("complete"),
            "cancelled": states.count("cancelled"),
            "broken": len(states) - states.count("complete") - states.count("cancelled"),
            "left running": left,
            "settled": 1000 * settled,
            "engine growth": engine - self._before[0],
            "daemon growth": daemon - self._before[1],
            "fresh request": 1000 * (fresh["times"][0] - fresh["sent"]),
            "unrecorded": self._unrecorded(),
            "wave": taken,
        }

    def _unrecorded(self) -> int:
        """Requests of this wave whose row the ledger lacks; the fresh one is one more."""
        time.sleep(0.2)
        rows = self._daemon.newest(self._count + 1)
        return self._count + 1 - sum(row["finish"] is not None for row in rows)


def _state(request: dict[str, Any], answer: Answer) -> str:
    if answer["stopped"]:
        return "cancelled"
    asked = request["body"]["max_tokens"]
    if answer["done"] and answer["finish"] == "length" and answer["usage"]["completion_tokens"] == asked:
        return "complete"
    return f"status {answer['status']}, {answer['error'] or answer['failure'] or answer['finish']}"


def figures(rounds: Rounds) -> list[Figure]:
    return [
        rounds.figure("broken", "", at_most(0)),
        rounds.figure("left running", "", at_most(0)),
        rounds.figure("unrecorded", "", at_most(0)),
        rounds.figure("engine growth", "MiB", at_most(16)),
        rounds.figure("daemon growth", "MiB", at_most(16)),
        rounds.figure("complete", ""),
        rounds.figure("cancelled", ""),
        rounds.figure("settled", "ms"),
        rounds.figure("fresh request", "ms"),
        rounds.figure("wave", "s"),
    ]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=200, help="requests of a wave (default: %(default)s)")
    options = parser.parse_args()
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(options))
        client = stack.enter_context(SseClient())
        rounds = play(options, Bench(client, daemon, options.requests).round)
        facts = {"model": model_path(options).name, "requests": options.requests, "at_once": _AT_ONCE}
        return report("churn", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
