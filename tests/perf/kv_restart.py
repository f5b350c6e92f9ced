"""A long conversation after the daemon was stopped and started: time to first token against computing it again.

    python -m tests.perf.kv_restart [--tokens 4000] [--backend onnx]

Each round has a home of its own, asks once without a cache and once after a restart, and a third time after another.
The load of the model is left out on both sides.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.perf.measure import Reading, arguments, at_most, play, report
from tests.perf.processes import Daemon, prompt

_NEXT = 24
"""Tokens of the next question: what has to be computed after a restore."""


def first_token(daemon: Daemon, tokens: list[int]) -> tuple[float, dict[str, Any]]:
    """Milliseconds to the first token without the load, and the whole answer."""
    body = {"model": daemon.model, "prompt": tokens, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    answer = daemon.client.post("/v1/completions", body, timeout=None)
    timings = answer["timings"]
    return timings["ttft_ms"] - timings["load_ms"], answer


def once(options: Any, number: int) -> Reading:
    conversation = prompt(options.tokens, number)
    asked = conversation + prompt(_NEXT, 1000 + number)
    with Daemon(options, backend=options.backend) as daemon:
        computed, first = first_token(daemon, conversation)
        daemon.stop()
        daemon.start()
        restored, second = first_token(daemon, asked)
        daemon.stop()
        daemon.start()
        again, third = first_token(daemon, asked)
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        if cached < options.tokens - 1:
            raise SystemExit(f"only {cached} tokens came from the cache")
        return {
            "computed_ms": computed,
            "restored_ms": restored,
            "again_ms": again,
            "restore_ms": second["timings"]["restore_ms"],
            # The last steps differ in size, so a near tie may fall the other way.
            "same_answer": float(third["choices"] == second["choices"]),
            "first_prefill_ms": first["timings"]["prompt_ms"],
        }


def main() -> int:
    parser = arguments(__doc__ or "", rounds=3)
    parser.add_argument("--tokens", type=int, default=4000, help="length of the conversation")
    parser.add_argument("--backend", default="llama.cpp", help="NAME[:MODE] of the engine (default: %(default)s)")
    options = parser.parse_args()
    most = at_most(0.04 if options.backend == "llama.cpp" else 0.1)
    rounds = play(options, lambda number: once(options, number))
    figures = [
        rounds.figure("same_answer", ""),
        rounds.figure("computed_ms", "ms"),
        rounds.figure("restored_ms", "ms"),
        rounds.figure("restore_ms", "ms"),
        rounds.ratio("restored / computed", "restored_ms", "computed_ms", most),
        rounds.ratio("with nothing to compute / computed", "again_ms", "computed_ms", most),
    ]
    return report("kv_restart", options, rounds, figures, tokens=options.tokens, backend=options.backend)


if __name__ == "__main__":
    sys.exit(main())
