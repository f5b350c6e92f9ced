"""What a request costs beside its engine, dialect by dialect: an engine without weights repeats one byte.

Each round asks every dialect in turn on kept connections. `cpu` is the daemon's own, as one core gives it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.perf.load import cpu_seconds
from tests.perf.measure import Figure, Reading, Rounds, arguments, at_least, at_most, play, report
from tests.perf.processes import Daemon

_EACH = 200
_LISTED = 1000
_SAID = [{"role": "user", "content": "a"}]
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": _SAID, "max_tokens": 1}),
    "chat streamed": ("/v1/chat/completions", {"messages": _SAID, "max_tokens": 1, "stream": True}),
    "completions": ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    "responses": ("/v1/responses", {"input": "a", "max_output_tokens": 1, "store": False}),
    "embeddings": ("/v1/embeddings", {"input": "a"}),
    "anthropic": ("/v1/messages", {"messages": _SAID, "max_tokens": 1}),
    "ollama": ("/api/chat", {"messages": _SAID, "stream": False, "options": {"num_predict": 1}}),
    "llama.cpp": ("/completion", {"prompt": "a", "n_predict": 1}),
}


class Bench:
    """One daemon whose default model repeats its prompt."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        made = daemon.client.post("/localai/tokens", {"name": "overhead", "scopes": ["admin"]})
        self._headers = {"Authorization": f"Bearer {made['secret']}"}
        for path, body in DIALECTS.values():
            self._many(path, body, 20)

    def _many(self, path: str, body: dict[str, Any] | None, count: int) -> tuple[float, float]:
        """Milliseconds of a request, in the middle and of the daemon's CPU on average."""
        raw = None if body is None else json.dumps(body)
        taken = []
        before = cpu_seconds(self._daemon.process)
        with closing(http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=120)) as line:
            for _ in range(count):
                begun = time.perf_counter()
                line.request("GET" if raw is None else "POST", path, raw, self._headers)
                answer = line.getresponse()
                said = answer.read()
                taken.append(time.perf_counter() - begun)
                if answer.status != 200:
                    raise SystemExit(f"{path} answers {answer.status}: {said[:300]!r}")
        spent = cpu_seconds(self._daemon.process) - before
        return 1000 * statistics.median(taken), 1000 * spent / count

    def round(self, number: int) -> Reading:
        reading: Reading = {}
        for name, (path, body) in DIALECTS.items():
            reading[name], reading[f"{name} cpu"] = self._many(path, body, _EACH)
        _, listed = self._many("/v1/models", None, _LISTED)
        reading["/v1/models"] = 1000 / listed
        reading["/health"], _ = self._many("/health", None, _EACH)
        return reading


def figures(rounds: Rounds) -> list[Figure]:
    found = [rounds.figure(name, "ms", at_most(2.0)) for name in DIALECTS]
    found += [rounds.figure(f"{name} cpu", "ms") for name in DIALECTS]
    return [
        *found,
        rounds.figure("/v1/models", "requests/s of one core", at_least(500)),
        rounds.figure("/health", "ms"),
    ]


def main() -> int:
    options: argparse.Namespace = arguments(__doc__).parse_args()
    with ExitStack() as stack:
        daemon = Daemon(options)
        model = Path(daemon.home) / "echo.txt"
        model.write_text("0\n")
        daemon.environment["LOCALAI_DEFAULT_MODEL"] = f"echo:{model}"
        stack.enter_context(daemon)
        rounds = play(options, Bench(daemon).round)
        return report("overhead", options, rounds, figures(rounds) if rounds.readings else [], model="echo")


if __name__ == "__main__":
    sys.exit(main())
