"""Questions in a person's own words and the texts that answer them, each written before anything was ranked with it.

A file has one question per line, parted from its answers by " | "; of several answers, parted by commas, each is right.
What one series chooses is judged by the other.
"""

from __future__ import annotations

from pathlib import Path

QUESTIONS = Path(__file__).parent / "questions"


def asked(what: str, series: str) -> list[tuple[str, frozenset[str]]]:
    """(question, names of what answers it) of "commands" (manual pages) or "python", "first" or "second"."""
    found = []
    for line in (QUESTIONS / f"{what}-{series}.txt").read_text(encoding="utf-8").splitlines():
        question, _, answers = line.strip().partition(" | ")
        found.append((question, frozenset(answers.split(", "))))
    return found
