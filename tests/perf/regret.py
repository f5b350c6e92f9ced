"""What the router's choice costs against the best engine in hindsight, over six workloads; and what choosing costs.

The engines are calibrated first, as `localai doctor --calibrate` does it. Then each round sends every workload to each
engine by name and once with the policy `fastest`, one after the other. The regret of a workload is the median time on
the engine that was chosen over that on the best one, less 1. Both engines stay loaded: the rounds show that switching
between them loads nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from localai.errors import LocalaiError
from tests.perf.measure import Figure, Reading, Rounds, Target, arguments, at_most, play, report, say
from tests.perf.processes import Daemon, model_path, prompt

_CALIBRATION_S = 600.0
_HOPELESS = 0.2
"""Of the fastest decode: an engine below that is never the best in hindsight, and would cost most of a round."""
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "town": {"type": "string"}},
    "required": ["name", "age", "town"],
}
_STORY = "The harbour wakes before the town does, and two old men argue about the weather on the stone steps. "

Body = dict[str, Any]


def _chat(seed: int) -> tuple[str, Body]:
    question = f"Question {seed}: why does the sea look blue on some days and grey on others?"
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 64,
        "ignore_eos": True,
    }


def _long(seed: int) -> tuple[str, Body]:
    text = f"Text {seed}. {_STORY * 60} What do the men argue about?"
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 16,
        "ignore_eos": True,
    }


def _completion(seed: int) -> tuple[str, Body]:
    return "/v1/completions", {"prompt": prompt(60, seed), "max_tokens": 96, "ignore_eos": True}


def _batch(seed: int) -> tuple[str, Body]:
    prompts = [prompt(40, 100 * seed + number) for number in range(8)]
    return "/v1/completions", {"prompt": prompts, "max_tokens": 32, "ignore_eos": True}


def _json(seed: int) -> tuple[str, Body]:
    text = f"Describe fisherman number {seed} as JSON with name, age and town."
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": _SCHEMA}},
    }


def _embeddings(seed: int) -> tuple[str, Body]:
    return "/v1/embeddings", {"input": [f"{seed} {number} {_STORY * 5}" for number in range(4)]}


WORKLOADS: dict[str, Callable[[int], tuple[str, Body]]] = {
    "short chat": _chat,
    "long prompt": _long,
    "completion": _completion,
    "batch of 8": _batch,
    "JSON output": _json,
    "embeddings": _embeddings,
}


class Bench:
    """One daemon with all engines loaded."""

    def __init__(self, daemon: Daemon, backends: list[str]) -> None:
        self._daemon = daemon
        self._backends = backends
        self._seed = 0
        self.chosen: dict[str, list[str]] = {name: [] for name in WORKLOADS}
        self.reasons: dict[str, str] = {}

    def round(self, number: int) -> Reading:
        found: Reading = {}
        for name, make in WORKLOADS.items():
            order = [*self._backends, "fastest"]
            # Each goes first in turn, so that none always follows the same one.
            for who in order[number % len(order) :] + order[: number % len(order)]:
                fields = {"policy": "fastest"} if who == "fastest" else {"backend": who}
                seconds, served = self._send(make, fields)
                found[f"{name} on {who}"] = seconds
                if who == "fastest":
                    self.chosen[name].append(served)
        found["loads"] = float(len(self.engines()))
        return found

    def engines(self) -> dict[str, int]:
        """Process ids by backend and mode."""
        shown = self._daemon.client.get("/localai/status")["engines"]
        return {f"{engine['backend']}:{engine['settings'].get('mode', '')}": engine["pid"] for engine in shown}

    def warm(self) -> None:
        for backend in self._backends:
            for make in (_chat, _embeddings):
                self._send(make, {"backend": backend})
        for workload in WORKLOADS.values():
            self._send(workload, {"policy": "fastest"})

    def _last_words(self) -> str:
        """The end of the engines' logs, which go with the daemon's folder."""
        logs = [path.read_text(encoding="utf-8", errors="replace") for path in self._daemon.home.glob("logs/engine*")]
        return "\n".join("\n".join(log.splitlines()[-30:]) for log in logs)

    def _send(self, make: Callable[[int], tuple[str, Body]], fields: Body) -> tuple[float, str]:
        """Seconds for one request that no cache knows, and the backend that served it."""
        self._seed += 1
        path, body = make(self._seed)
        begun = time.perf_counter()
        try:
            self._daemon.client.post(path, {"model": self._daemon.model, "temperature": 0, **body, **fields})
        except LocalaiError as error:
            raise SystemExit(f"{path} with {fields} failed: {error.message}\n{self._last_words()}") from error
        seconds = time.perf_counter() - begun
        return seconds, str(self._daemon.newest(1)[0]["backend"])


def calibrate(daemon: Daemon) -> dict[str, Any]:
    """Measure all engines in the daemon's home; the result of the command, with the seconds that it took."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "localai", "doctor", "--calibrate", "--json", "-m", daemon.model],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        timeout=_CALIBRATION_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"seconds": time.perf_counter() - begun}


def figures(rounds: Rounds, bench: Bench, backends: list[str]) -> list[Figure]:
    found = []
    for name in WORKLOADS:
        medians = {b: statistics.median(r[f"{name} on {b}"] for r in rounds.readings) for b in backends}
        chosen = statistics.mode(bench.chosen[name])
        regret = medians[chosen] / min(medians.values()) - 1
        shown = ", ".join(f"{b} {seconds:.2f} s" for b, seconds in medians.items())
        found.append(Figure(f"{name}: regret of {chosen} ({shown})", "", (regret,), at_most(0.05)))
    found += [rounds.figure(f"{name} on fastest", "s") for name in WORKLOADS]
    return found


def main() -> int:
    parser: argparse.ArgumentParser = arguments(__doc__)
    options = parser.parse_args()
    with Daemon(options, calibrate="0") as daemon:
        known = calibrate(daemon)
        usable = [r for r in known["results"] if not r["problem"] and ":" not in r["backend"] and "decode_tps" in r]
        fastest = max(result["decode_tps"] for result in usable)
        backends = [result["backend"] for result in usable if result["decode_tps"] > _HOPELESS * fastest]
        for result in usable:
            say(f"  {result['backend']}: {result['passes']} passes in {result['spent_s']:.1f} s")
        bench = Bench(daemon, backends)
        bench.warm()
        before = bench.engines()
        rounds = play(options, bench.round)
        made = figures(rounds, bench, backends) if rounds.readings else []
        spent = tuple(result["spent_s"] for result in known["results"])
        made += [
            Figure("calibration, slowest backend", "s", (max(spent),), at_most(30.0)),
            Figure(
                "engines loaded anew while switching",
                "",
                (float(sum(bench.engines().get(b) != pid for b, pid in before.items())),),
                Target("at most", 0),
            ),
        ]
        facts = {"model": model_path(options).name, "calibration": known["results"], "chosen": bench.chosen}
        return report("regret", options, rounds, made, **facts)


if __name__ == "__main__":
    sys.exit(main())
