"""The chat in a terminal with 10,000 messages: start, key to echo beside a stream, CPU while streaming, memory.

    python -m tests.perf.tui [--messages 10000] [--keys 60] [--seconds 10]

The daemon's engine repeats its prompt at a set pace, so that the stream is the same each time. A key counts as echoed
when its character has come out of the pseudo terminal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from localai.conversations import Conversations, StoredMessage
from tests.daemon_fixture import Daemon, running
from tests.perf.load import cpu_seconds
from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, play, quantile, report
from tests.terminal import Terminal, terminal

_ECHOED = [chr(0x100 + number) for number in range(0x80)]
_CTX = "131072"
"""Tokens; a message of the conversation is about six, and the engine says all of them again."""


def plant(path: Path, messages: int) -> str:
    """A conversation of so many messages, written before the daemon opens its file; its id."""
    kept = Conversations(path)
    rows = [
        StoredMessage(
            id=str(number),
            conversation="",
            parent=str(number - 1) if number else None,
            role="assistant" if number % 2 else "user",
            content=f"m{number} ",
            reasoning="",
            model=None,
            finish_reason="stop" if number % 2 else None,
            usage=None,
            created=0.0,
        )
        for number in range(messages)
    ]
    chat = kept.plant(kept.create(title="Long").id, rows, str(messages - 1))
    kept.close()
    return chat.id


class Bench:
    """One reading of everything per round."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def round(self, number: int) -> Reading:
        with running(LOCALAI_CTX=_CTX) as daemon:
            daemon.end()
            chat = plant(daemon.home / "conversations.db", self._options.messages)
            daemon.start()
            # As installed, with its modules compiled; the first start compiles them.
            daemon.env.pop("PYTHONDONTWRITEBYTECODE", None)
            daemon.env["PYTHONPYCACHEPREFIX"] = str(daemon.home / "compiled")
            self._start(daemon)
            return self._start(daemon) | self._type(daemon, chat) | self._watch(daemon, chat)

    def _start(self, daemon: Daemon) -> dict[str, float]:
        begun = time.monotonic()
        with terminal(_command(), daemon.env) as screen:
            # Its first letter is under the cursor.
            screen.wait(b"sk anything")
            return {"start to prompt": 1000 * (time.monotonic() - begun)}

    def _type(self, daemon: Daemon, chat: str) -> dict[str, float]:
        """Keys without and beside a stream of 100 tokens/s."""
        with self._opened(daemon, chat, 10) as screen:
            found = {"key to echo, idle, p95": self._echo(screen)}
            self._begin(screen)
            return found | {"key to echo, streaming, p95": self._echo(screen)}

    def _watch(self, daemon: Daemon, chat: str) -> dict[str, float]:
        """What it takes to show 50 tokens/s."""
        with self._opened(daemon, chat, 20) as screen:
            process = psutil.Process(screen.pid)
            found = {"rss": process.memory_info().rss / 2**20}
            self._begin(screen)
            before, begun = cpu_seconds(process), time.monotonic()
            screen.drain(self._options.seconds)
            found["cpu, streaming"] = 100 * (cpu_seconds(process) - before) / (time.monotonic() - begun)
            return found | {"rss, after": process.memory_info().rss / 2**20}

    @contextmanager
    def _opened(self, daemon: Daemon, chat: str, step_ms: int) -> Iterator[Terminal]:
        model = daemon.echo(f"{step_ms}.txt", step_ms)
        with terminal(_command("-c", chat, "-m", model), daemon.env) as screen:
            screen.wait(f"m{self._options.messages - 1}".encode())
            yield screen

    def _begin(self, screen: Terminal) -> None:
        """Clear what was typed, and wait until an answer comes."""
        screen.type(b"\x15" * 4)
        screen.type(b"go on\r")
        screen.wait(b"answering", 120)

    def _echo(self, screen: Terminal) -> float:
        """Milliseconds: the 95th percentile."""
        taken = []
        for number in range(self._options.keys):
            key = _ECHOED[number % len(_ECHOED)].encode()
            screen.type(key)
            taken.append(1000 * screen.wait(key))
            screen.drain(0.05)
        return quantile(taken, 0.95)


def _command(*more: str) -> list[str]:
    return [sys.executable, "-P", "-m", "localai", "chat", *more]


def figures(rounds: Rounds) -> list[Figure]:
    return [
        rounds.figure("start to prompt", "ms", at_most(600.0)),
        rounds.figure("key to echo, streaming, p95", "ms", at_most(30.0)),
        rounds.figure("key to echo, idle, p95", "ms"),
        rounds.figure("cpu, streaming", "% core", at_most(15.0)),
        rounds.figure("rss", "MiB", at_most(120e6 / 2**20)),
        rounds.figure("rss, after", "MiB", at_most(120e6 / 2**20)),
    ]


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--messages", type=int, default=10_000, help="in the conversation (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=60, help="typed per reading (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of streaming watched (default: %(default)s)")
    options = parser.parse_args()
    rounds = play(options, Bench(options).round)
    return report("tui", options, rounds, figures(rounds) if rounds.readings else [], messages=options.messages)


if __name__ == "__main__":
    sys.exit(main())
