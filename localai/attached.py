"""Files that go along with a message, written into its text as fences, and read out of it again. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FILE = re.compile(r"File (?P<name>[^\n]+):\n(?P<fence>`{3,})\n(?P<text>.*?)\n(?P=fence)(?:\n\n|\Z)", re.DOTALL)


def with_files(typed: str, files: Iterable[tuple[str, str]]) -> str:
    """What is sent: the files, as names with texts, then what was typed."""
    return "\n\n".join([*(f"File {' '.join(name.split())}:\n{_fenced(text)}" for name, text in files), typed])


def parted(content: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The files that `with_files` has put before what was typed, and that."""
    files, at = [], 0
    while found := _FILE.match(content, at):
        files.append((found["name"], found["text"]))
        at = found.end()
    return tuple(files), content[at:]


def typed_of(content: str) -> str:
    """What was typed, else the names of the files, else all of it."""
    files, typed = parted(content)
    return typed if typed.strip() else ", ".join(name for name, _ in files) or content


def _fenced(text: str) -> str:
    """In a fence that is longer than any inside."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
