"""Speed through HTTP against the engine's own loop and against llama-server: decode, prefill, four streams at once.

`deep decode` is behind a prompt of 1,024 tokens.

All columns run the same file with the same threads on the same token ids, greedily and to the same length.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import Any

import msgspec
import psutil

from backends.contract import Load
from tests.perf.load import cpu_seconds
from tests.perf.measure import Figure, Reading, Rounds, arguments, at_least, play, rate, report
from tests.perf.processes import (
    Daemon,
    LineProcess,
    LlamaServer,
    SseClient,
    model_path,
    peer_argument,
    peer_facts,
    peer_of,
    prompt,
    whole,
)

_PROMPT = 32
_PREFILLS = (512, 2048)
_DEEP = 1024
_STREAMS = 4
Server = Daemon | LlamaServer


def own_loop(daemon: Daemon, options: argparse.Namespace) -> LineProcess:
    """The loop under the settings, and the environment, that the daemon chose for its own engine."""
    shown = daemon.engine()
    settings = shown["settings"]
    chosen = {name: settings[name] for name in ("extra_bufts", "gpu_layers", "mode") if name in settings}
    order = Load(
        backend=shown["backend"],
        path=str(model_path(options)),
        n_ctx=shown["n_ctx"],
        n_seq=32,
        threads=options.threads,
        cache=str(daemon.home / "cache" / "graphs"),
        **chosen,
    )
    inherited = psutil.Process(shown["pid"]).environ()
    waiting = {key: value for key, value in inherited.items() if key.startswith(("OMP_", "GOMP_", "KMP_"))}
    return LineProcess("tests.perf.own_loop", msgspec.json.encode(order).decode(), env=waiting)


class Bench:
    """One set of running servers, and the readings that a round takes of them."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        self.options = options
        self.binary = peer_of(options)
        self.daemon = stack.enter_context(Daemon(options, backend=options.backend))
        self.client = stack.enter_context(SseClient())
        self.peer = self.crowd = None
        if self.binary is not None:
            self.peer = stack.enter_context(LlamaServer(self.binary, options, 1))
            self.crowd = stack.enter_context(LlamaServer(self.binary, options, _STREAMS))
        self._seed = 0
        self._stream(self.daemon)
        self.loop = stack.enter_context(own_loop(self.daemon, options))
        self.loop.ask({"prompts": [self._prompt(_PROMPT)], "max_tokens": options.tokens})

    def _prompt(self, length: int) -> list[int]:
        self._seed += 1
        return prompt(length, self._seed)

    def _stream(self, server: Server, tokens: list[int] | None = None) -> dict[str, Any]:
        asked = server.request(tokens or self._prompt(_PROMPT), self.options.tokens)
        return whole(self.client.play([asked])[0])

    def round(self, number: int) -> Reading:
        found: Reading = {}
        same = self._prompt(_PROMPT)
        columns = [self._http, self._own] + ([self._peer] if self.peer else [])
        for column in columns[number % len(columns) :] + columns[: number % len(columns)]:
            column(found, same)
        return found

    def _http(self, found: Reading, same: list[int]) -> None:
        serving = self.daemon.process
        before = cpu_seconds(serving)
        answer = self._stream(self.daemon, same)
        found["daemon cpu"] = 1e6 * (cpu_seconds(serving) - before) / self.options.tokens
        count = answer["usage"]["completion_tokens"]
        found["http decode"] = rate(answer["times"]) * (count - 1) / (len(answer["times"]) - 1)
        found["http deep decode"] = self._deep(self.daemon)
        found["events a token"] = len(answer["times"]) / count
        found["client cpu"] = 1e6 * self.client.cpu_s / count
        found["daemon threads"] = self.daemon.engine()["threads"]
        for length in _PREFILLS:
            found[f"http prefill {length}"] = self._prefill(self.daemon, length)
        found["http 4 streams"] = self._together(self.daemon)

    def _own(self, found: Reading, same: list[int]) -> None:
        order: dict[str, Any] = {"prompts": [same], "max_tokens": self.options.tokens}
        found["loop decode"] = rate(self.loop.ask(order)["steps"])
        done = self.loop.ask({"prompts": [self._prompt(_DEEP)], "max_tokens": self.options.tokens})
        found["loop deep decode"] = rate(done["steps"])
        for length in _PREFILLS:
            done = self.loop.ask({"prompts": [self._prompt(length)], "max_tokens": 1})
            found[f"loop prefill {length}"] = length / (done["steps"][0] - done["started"])
        together = [self._prompt(_PROMPT) for _ in range(_STREAMS)]
        done = self.loop.ask({"prompts": together, "max_tokens": self.options.tokens})
        found["loop 4 streams"] = _STREAMS * rate(done["steps"])

    def _peer(self, found: Reading, same: list[int]) -> None:
        assert self.peer is not None
        assert self.crowd is not None
        answer = self._stream(self.peer, same)
        count = answer["usage"]["completion_tokens"]
        found["peer decode"] = rate(answer["times"]) * (count - 1) / (len(answer["times"]) - 1)
        found["peer deep decode"] = self._deep(self.peer)
        for length in _PREFILLS:
            found[f"peer prefill {length}"] = self._prefill(self.peer, length)
        found["peer 4 streams"] = self._together(self.crowd)

    def _deep(self, server: Server) -> float:
        """Decode rate behind a prompt of `_DEEP` tokens."""
        answer = self._stream(server, self._prompt(_DEEP))
        return rate(answer["times"]) * (answer["usage"]["completion_tokens"] - 1) / (len(answer["times"]) - 1)

    def _prefill(self, server: Server, length: int) -> float:
        """Prompt tokens per second from sending to the first token, the server's overhead included."""
        answer = whole(self.client.play([server.request(self._prompt(length), 1)])[0])
        return float(length / (answer["times"][0] - answer["sent"]))

    def _together(self, server: Server) -> float:
        """Tokens per second of all streams, while all of them are decoding."""
        requests = [server.request(self._prompt(_PROMPT), self.options.tokens) for _ in range(_STREAMS)]
        times = [whole(answer)["times"] for answer in self.client.play(requests)]
        begin, end = max(t[0] for t in times), min(t[-1] for t in times)
        inside = sum(begin < moment <= end for own in times for moment in own)
        return float(inside / (end - begin))


def figures(rounds: Rounds) -> list[Figure]:
    names = ["decode", "deep decode", *(f"prefill {length}" for length in _PREFILLS), "4 streams"]
    found = [rounds.ratio("decode, http / own loop", "http decode", "loop decode", at_least(0.97))]
    if rounds.has("peer decode"):
        found += [rounds.ratio(f"{n}, http / llama-server", f"http {n}", f"peer {n}", at_least(1.0)) for n in names]
    for column in ("http", "loop", "peer"):
        if rounds.has(f"{column} decode"):
            found += [rounds.figure(f"{column} {name}", "token/s") for name in names]
    found.append(rounds.figure("daemon cpu", "us/token"))
    found.append(rounds.figure("client cpu", "us/token"))
    found.append(rounds.figure("events a token", ""))
    found.append(rounds.figure("daemon threads", ""))
    return found


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer (default: %(default)s)")
    parser.add_argument(
        "--backend", default="llama.cpp", help="NAME[:MODE] of the daemon's engine (default: %(default)s)"
    )
    peer_argument(parser)
    options = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack, options)
        rounds = play(options, bench.round)
        facts = {
            "peer": peer_facts(bench.binary, bench.peer),
            "peer_4_streams": peer_facts(bench.binary, bench.crowd),
            "engine": bench.daemon.engine()["settings"],
            "tokens": options.tokens,
            "model": model_path(options).name,
        }
        return report("decode", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
