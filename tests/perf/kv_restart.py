"""A long conversation after the daemon was stopped and started: time to first token against computing it again.

    python -m tests.perf.kv_restart [--tokens 4000] [--backend onnx]

Each round has a home of its own, asks once without a cache and once after a restart, and a third time after another.
The load of the model is left out on both sides. llama-server keeps nothing by itself; beside it stands what it does
when somebody saves its slot before it ends, and restores it before asking.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.perf.measure import Reading, arguments, at_most, play, report
from tests.perf.processes import Daemon, LlamaServer, SseClient, peer_argument, peer_of, prompt, whole

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


def peer_once(binary: Path, options: Any, number: int) -> Reading:
    """The same conversation with llama-server started again: as it is, and with its slot saved and restored by hand."""
    conversation = prompt(options.tokens, number)
    asked = conversation + prompt(_NEXT, 1000 + number)
    with tempfile.TemporaryDirectory() as folder:

        def served(restore: bool, tokens: list[int]) -> tuple[float, float]:
            """Milliseconds that restoring took, and to the first token after it; the slot is saved at the end."""
            with LlamaServer(binary, options, 1, ("--slot-save-path", folder)) as peer, SseClient() as client:
                begun = time.perf_counter()
                if restore:
                    _slot(peer.port, "restore")
                restored = time.perf_counter() - begun
                answer = whole(client.play([peer.request(tokens, 4, cache_prompt=True, id_slot=0)])[0])
                if not restore and tokens is conversation:
                    _slot(peer.port, "save")
            return 1e3 * restored, 1e3 * (answer["times"][0] - answer["sent"])

        computed = served(False, conversation)[1]
        again = served(False, asked)[1]
        restoring, restored = served(True, asked)
    return {
        "peer_computed_ms": computed,
        "peer_restarted_ms": again,
        "peer_slot_ms": restoring + restored,
    }


def _slot(port: int, action: str) -> None:
    data = json.dumps({"filename": "conversation.bin"}).encode()
    url = f"http://127.0.0.1:{port}/slots/0?action={action}"
    urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})).read()


def main() -> int:
    parser = arguments(__doc__ or "", rounds=3)
    parser.add_argument("--tokens", type=int, default=4000, help="length of the conversation")
    parser.add_argument("--backend", default="llama.cpp", help="NAME[:MODE] of the engine (default: %(default)s)")
    peer_argument(parser)
    options = parser.parse_args()
    binary = peer_of(options)
    most = at_most(0.04 if options.backend == "llama.cpp" else 0.1)
    rounds = play(
        options, lambda number: once(options, number) | (peer_once(binary, options, number) if binary else {})
    )
    figures = [
        rounds.figure("same_answer", ""),
        rounds.figure("computed_ms", "ms"),
        rounds.figure("restored_ms", "ms"),
        rounds.figure("restore_ms", "ms"),
        rounds.ratio("restored / computed", "restored_ms", "computed_ms", most),
        rounds.ratio("with nothing to compute / computed", "again_ms", "computed_ms", most),
    ]
    if rounds.has("peer_slot_ms"):
        figures += [
            rounds.ratio("llama-server restarted / computed", "peer_restarted_ms", "peer_computed_ms"),
            rounds.ratio("llama-server, slot by hand / computed", "peer_slot_ms", "peer_computed_ms"),
            rounds.ratio("ours / llama-server restarted", "restored_ms", "peer_restarted_ms"),
            rounds.ratio("ours / llama-server, slot by hand", "restored_ms", "peer_slot_ms"),
        ]
    return report("kv_restart", options, rounds, figures, tokens=options.tokens, backend=options.backend)


if __name__ == "__main__":
    sys.exit(main())
