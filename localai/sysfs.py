"""Small files in which the Linux kernel reports facts: a path enters, text or numbers leave. Knows no file by name."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str:
    """The file's text without surrounding white space; '' where this kernel does not offer the file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The file's decimal number; None where the file is absent or says something else (`max`)."""
    try:
        return int(text(path))
    except ValueError:
        return None


def pairs(content: str, separator: str) -> dict[str, str]:
    """Lines `name<separator>value` as a dict; of a name that comes twice, the first value."""
    found: dict[str, str] = {}
    for line in content.splitlines():
        name, mark, value = line.partition(separator)
        if mark:
            found.setdefault(name.strip(), value.strip())
    return found
