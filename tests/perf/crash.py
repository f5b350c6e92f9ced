"""The engine is killed in the middle of an answer: how soon the client is told, and how soon the next one is answered.

Each round has a daemon of its own, so that deaths do not add up to an open breaker.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, play, report, say
from tests.perf.processes import Daemon, SseClient, model_path, prompt, whole

_LEAD_STEPS = 20
_LEAD_S = 60.0
_ENDLESS = 4000


class Bench:
    """One round: load, answer, kill, ask again."""

    def __init__(self, options: argparse.Namespace, client: SseClient) -> None:
        self._options, self._client = options, client

    def round(self, number: int) -> Reading:
        with Daemon(self._options) as daemon:
            whole(self._client.play([daemon.request(prompt(32, number), 4)])[0])
            engine = daemon.engine()
            self._client.send({"requests": [daemon.request(prompt(32, 100 + number), _ENDLESS)]})
            _wait_for_steps(daemon, engine["steps"] + _LEAD_STEPS)
            killed = time.monotonic()
            os.kill(engine["pid"], signal.SIGKILL)
            broken = self._client.wait()[0]
            if not broken["times"] or broken["error"] is None:
                raise SystemExit(f"no clear error in the middle of an answer: {broken['error'] or broken['failure']}")
            say(f"  told: {broken['error']}")
            after = whole(self._client.play([daemon.request(prompt(32, 200 + number), 8)])[0])
            return {
                "told": broken["error_at"] - killed,
                "tokens before": len(broken["times"]),
                "next answer": after["ended"] - after["sent"],
                "next first token": after["times"][0] - after["sent"],
                "another engine": float(daemon.engine()["pid"] != engine["pid"]),
            }


def _wait_for_steps(daemon: Daemon, steps: int) -> None:
    """Until the answer is under way."""
    begun = time.monotonic()
    while daemon.engine()["steps"] < steps:
        if time.monotonic() - begun > _LEAD_S:
            raise SystemExit("the answer that was to be cut off did not get under way")
        time.sleep(0.01)


def figures(rounds: Rounds) -> list[Figure]:
    return [
        rounds.figure("told", "s", at_most(2.0)),
        rounds.figure("next first token", "s"),
        rounds.figure("next answer", "s"),
        rounds.figure("another engine", ""),
        rounds.figure("tokens before", ""),
    ]


def main() -> int:
    options = arguments(__doc__).parse_args()
    with SseClient() as client:
        rounds = play(options, Bench(options, client).round)
    facts = {"model": model_path(options).name}
    return report("crash", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
