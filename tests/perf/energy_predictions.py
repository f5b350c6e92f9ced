"""How far the joules predicted of an answer are off, quiet and beside programs that take cores, in turns:

    python -m tests.perf.energy_predictions [ROUNDS]

Each round asks the same questions quietly, beside one busy program, and beside two. Prints medians as JSON, per number
of busy programs: of joules for the tokens that came, of the expected length, and of joules with that length. The first
answers of the daemon, with nothing to learn from, count too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tests.daemon_fixture import Daemon, running

QUESTIONS = (
    ("What is a fox?", 24),
    ("Explain how tides work to a child.", 96),
    ("Write a short story of rain.", 160),
    ("List five fruits.", 24),
    ("Sum this up in a sentence: " + "The river runs from the hills to the sea past many towns. " * 12, 96),
    ("Name the capital of France.", 24),
    ("How do I sort a list in Python? Explain each step.", 160),
)
BUSY = (0, 1, 2)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in found:
            each.kill()
            each.wait()


def errors(daemon: Daemon, turn: int) -> Iterator[tuple[float, float, float]]:
    """Relative errors of each answer that was predicted: joules, length, and both."""
    for text, most in QUESTIONS:
        answer = daemon.chat(f"{turn}. {text}", max_tokens=most).json
        energy, made = answer["usage"]["energy"], answer["usage"]["completion_tokens"]
        pairs = (
            (energy["predicted_joules"], energy["joules"]),
            (energy["forecast_tokens"], made),
            (energy["forecast_joules"], energy["joules"]),
        )
        if all(told is not None and took for told, took in pairs):
            joules, length, both = (abs(told - took) / took for told, took in pairs)
            yield joules, length, both


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in BUSY}
    with running(LOCALAI_THREADS="0") as daemon:
        for turn in range(rounds):
            for count in BUSY:
                with neighbours(count):
                    found[count] += errors(daemon, turn * len(BUSY) + count)
    names = ("joules", "length", "joules_with_length")
    print(json.dumps({
        count: {"answers": len(rows), **{n: round(median(row[i] for row in rows), 3) for i, n in enumerate(names)}}
        for count, rows in found.items()
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
