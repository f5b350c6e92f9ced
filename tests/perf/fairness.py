"""What a long prompt costs those beside it: another stream's gaps between tokens, and short interactive requests.

A round reads everything quiet first: the stream, the long prompt, the short request. Then the long prompt runs beside
the stream, and once more beside short requests: alone with them in its first half, with the stream too after that.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from typing import Any

from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, gaps, play, quantile, report
from tests.perf.processes import Answer, Daemon, SseClient, model_path, prompt, whole

_STREAM_PROMPT = 32
_SHORT = 16
_ENDLESS = 2000
_ASKED = (0.1, 0.2, 0.3, 0.4)
_ASKED_BESIDE_STREAM = (0.65, 0.75, 0.85, 0.95)


class Bench:
    """One daemon, and one round over it."""

    def __init__(self, client: SseClient, daemon: Daemon, long: int) -> None:
        self._client, self._daemon, self._long = client, daemon, long
        self._seed = 0
        self._play(self._ask(_STREAM_PROMPT, 64))

    def _ask(self, length: int, most: int, **extra: Any) -> dict[str, Any]:
        self._seed += 1
        return self._daemon.request(prompt(length, self._seed), most, **extra)

    def _play(self, *requests: dict[str, Any]) -> list[Answer]:
        return [whole(answer) for answer in self._client.play(list(requests))]

    def _short(self, **extra: Any) -> dict[str, Any]:
        return self._ask(_SHORT, 1, priority="interactive", **extra)

    def round(self, number: int) -> Reading:
        quiet = gaps(self._play(self._ask(_STREAM_PROMPT, 200))[0]["times"])
        alone = _took(self._play(self._ask(self._long, 1))[0])
        found = {
            "quiet gap p50": 1000 * quantile(quiet, 0.5),
            "quiet gap p95": 1000 * quantile(quiet, 0.95),
            "quiet prefill": alone,
            "quiet short": 1000 * _took(self._play(self._short())[0]),
        }
        return found | self._beside_stream() | self._beside_short(alone)

    def _beside_stream(self) -> Reading:
        long, stream = self._play(self._ask(self._long, 1, delay=0.5), self._ask(_STREAM_PROMPT, _ENDLESS, stop_with=0))
        during = [t for t in stream["times"] if long["sent"] <= t <= long["times"][0]]
        between = gaps(during)
        return {
            "gap p50": 1000 * quantile(between, 0.5),
            "gap p95": 1000 * quantile(between, 0.95),
            "gap max": 1000 * max(between),
            "prefill beside stream": _took(long),
        }

    def _beside_short(self, alone: float) -> Reading:
        """The long prompt slows down once the stream has joined; both halves keep clear of its end."""
        requests = [
            self._ask(self._long, 1),
            self._ask(_STREAM_PROMPT, _ENDLESS, delay=0.5 * alone, stop_with=0),
            *(self._short(delay=at * alone) for at in (*_ASKED, *_ASKED_BESIDE_STREAM)),
        ]
        long, _, *short = self._play(*requests)
        took = [1000 * _took(answer) for answer in short if answer["ended"] < long["times"][0]]
        if len(took) <= len(_ASKED):
            raise SystemExit("the long prompt ended before the short requests; give it more tokens with --long")
        first, second = took[: len(_ASKED)], took[len(_ASKED) :]
        return {
            "short p50": statistics.median(first),
            "short max": max(first),
            "short beside stream p50": statistics.median(second),
            "short beside stream max": max(second),
        }


def _took(answer: Answer) -> float:
    """Seconds from sending to the first token."""
    return float(answer["times"][0] - answer["sent"])


def figures(rounds: Rounds) -> list[Figure]:
    names = ("quiet gap p50", "quiet gap p95", "gap p50", "gap p95", "gap max", "quiet short")
    return [
        rounds.ratio("gap p95 beside prefill / quiet", "gap p95", "quiet gap p95", at_most(5.0)),
        rounds.ratio("prefill beside stream / quiet", "prefill beside stream", "quiet prefill", at_most(1.7)),
        rounds.figure("short p50", "ms", at_most(400.0)),
        rounds.figure("short max", "ms", at_most(400.0)),
        rounds.figure("short beside stream p50", "ms", at_most(400.0)),
        rounds.figure("short beside stream max", "ms", at_most(400.0)),
        *(rounds.figure(name, "ms") for name in names),
        rounds.figure("quiet prefill", "s"),
        rounds.figure("prefill beside stream", "s"),
    ]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--long", type=int, default=6000, help="tokens of the long prompt (default: %(default)s)")
    options = parser.parse_args()
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(options))
        client = stack.enter_context(SseClient())
        rounds = play(options, Bench(client, daemon, options.long).round)
        facts = {"model": model_path(options).name, "long": options.long}
        return report("fairness", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
