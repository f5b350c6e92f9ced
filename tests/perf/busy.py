"""Decode with one busy process beside the engine, as a share of the quiet speed: ours, and llama-server's.

The busy answer is longer than the quiet one, so that its beginning, in which threads still adapt, and its end can both
be read. Each round starts quiet, so the adaptation begins anew.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from tests.perf.measure import Figure, Reading, Rounds, arguments, at_least, play, rate, report
from tests.perf.processes import (
    Daemon,
    LlamaServer,
    SseClient,
    busy_neighbour,
    model_path,
    peer_argument,
    peer_facts,
    peer_of,
    prompt,
    whole,
)

_PROMPT = 32


class Bench:
    """The servers, and one round over them."""

    def __init__(self, client: SseClient, daemon: Daemon, peer: LlamaServer | None, most: int) -> None:
        self._client, self._daemon, self._peer, self._most = client, daemon, peer, most
        self._seed = 0
        self._times(daemon, 16)

    def _times(self, server: Daemon | LlamaServer, most: int, **extra: Any) -> list[float]:
        self._seed += 1
        request = server.request(prompt(_PROMPT, self._seed), most, **extra)
        times: list[float] = whole(self._client.play([request])[0])["times"]
        return times

    def round(self, number: int) -> Reading:
        # A peer that crawls must not take the whole round: its rate is read over what it made in this time.
        limit = {"stop_s": 30.0}
        found: Reading = {"ours quiet": rate(self._times(self._daemon, self._most // 2))}
        if self._peer:
            found["peer quiet"] = rate(self._times(self._peer, self._most // 2))
        with busy_neighbour():
            times = self._times(self._daemon, self._most)
            found["ours busy threads"] = self._daemon.engine()["threads"]
            if self._peer:
                found["peer busy"] = rate(self._times(self._peer, self._most // 2, **limit))
        third = len(times) // 3
        found["ours busy"] = rate(times)
        found["ours busy, first third"] = rate(times[:third])
        found["ours busy, last third"] = rate(times[-third:])
        return found


def figures(rounds: Rounds) -> list[Figure]:
    found = [
        rounds.ratio("busy / quiet, ours, whole answer", "ours busy", "ours quiet", at_least(0.5)),
        rounds.ratio("busy / quiet, ours, first third", "ours busy, first third", "ours quiet"),
        rounds.ratio("busy / quiet, ours, last third", "ours busy, last third", "ours quiet"),
    ]
    if rounds.has("peer busy"):
        found += [
            rounds.ratio("busy / quiet, llama-server", "peer busy", "peer quiet"),
            rounds.ratio("ours / llama-server, both busy", "ours busy", "peer busy"),
        ]
    found += [rounds.figure(n, "token/s") for n in rounds.readings[0] if "threads" not in n]
    return [*found, rounds.figure("ours busy threads", "")]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=300, help="tokens of the busy answer (default: %(default)s)")
    parser.add_argument("--backend", default="llama.cpp", help="NAME[:MODE] of the engine (default: %(default)s)")
    peer_argument(parser)
    options = parser.parse_args()
    with ExitStack() as stack:
        binary = peer_of(options)
        daemon = stack.enter_context(Daemon(options, backend=options.backend))
        client = stack.enter_context(SseClient())
        peer = stack.enter_context(LlamaServer(binary, options, 1)) if binary else None
        rounds = play(options, Bench(client, daemon, peer, options.tokens).round)
        facts = {
            "peer": peer_facts(binary, peer),
            "model": model_path(options).name,
            "tokens": options.tokens,
            "backend": options.backend,
        }
        return report("busy", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
