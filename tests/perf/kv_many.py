"""Many conversations on a context that holds four, visited at random; and what a shared prefix takes on the SSD.

    python -m tests.perf.kv_many [--conversations 100] [--tokens 400]

A visit asks one more short question. Its time to first token is held against computing a conversation of that length.
"""

from __future__ import annotations

import random
import statistics
import sys
from typing import Any

from backends.kv import upkeep
from tests.perf.kv_restart import first_token
from tests.perf.measure import Reading, arguments, at_most, play, report
from tests.perf.processes import Daemon, prompt

_QUESTION = 12


def visits(options: Any, number: int) -> Reading:
    """Median milliseconds of the first visits, which compute, and of later ones, which should not."""
    draw = random.Random(number)
    chats = {seed: prompt(options.tokens, 10_000 * number + seed) for seed in range(options.conversations)}
    with Daemon(options, ctx=str(4 * (options.tokens + 64))) as daemon:
        first_token(daemon, prompt(8, 1))
        computed = [first_token(daemon, tokens)[0] for tokens in chats.values()]
        returned, missed = [], 0
        for seed in draw.choices(range(options.conversations), k=options.visits):
            chats[seed] = chats[seed] + prompt(_QUESTION, draw.randrange(10**6))
            taken, answer = first_token(daemon, chats[seed])
            returned.append(taken)
            missed += answer["usage"]["prompt_tokens_details"]["cached_tokens"] < options.tokens - 1
        return {
            "computed_ms": statistics.median(computed),
            "returned_ms": statistics.median(returned),
            "missed": missed,
        }


def shared(options: Any, number: int) -> float:
    """Bytes on the SSD of 20 conversations behind one prefix, over one prefix and the 20 tails."""
    prefix, tail, count = prompt(options.prefix, number), 48, 20
    with Daemon(options) as daemon:
        for seed in range(count):
            first_token(daemon, prefix + prompt(tail, 5000 + seed))
        daemon.stop()
        held = upkeep.stats(daemon.home / "cache" / "kv")
    # Each answer adds its tokens but the last, which is never put into the cells.
    return float(held.tokens) / (options.prefix + count * (tail + 3))


def main() -> int:
    parser = arguments(__doc__ or "", rounds=1)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--visits", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=400, help="length of a conversation")
    parser.add_argument("--prefix", type=int, default=3072, help="length of the shared prefix")
    options = parser.parse_args()
    rounds = play(options, lambda number: {**visits(options, number), "shared": shared(options, number)})
    figures = [
        rounds.figure("computed_ms", "ms"),
        rounds.figure("returned_ms", "ms"),
        rounds.figure("missed", "", at_most(0)),
        rounds.ratio("returned / computed", "returned_ms", "computed_ms", at_most(0.10)),
        rounds.figure("shared", "", at_most(1.10)),
    ]
    return report("kv_many", options, rounds, figures, conversations=options.conversations, tokens=options.tokens)


if __name__ == "__main__":
    sys.exit(main())
