"""What was typed in the chat and not sent: a text file for each conversation in a folder of the home.

The chat writes them; here they are searched, and removed with their conversation. It knows nothing of the chat.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from localai.quotations import Quotations

FOLDER = "drafts"
FILES = ".files"
"""Beside the text: the paths of what was attached, a JSON list."""
NEW = "new"
"""Instead of the id of a conversation, where there is none yet."""


def path_of(folder: Path, conversation: str) -> Path:
    """Where it is kept."""
    return folder / f"{conversation}.txt"


def quoting(folder: Path, quotations: Quotations) -> tuple[str, ...]:
    """Ids of conversations, or NEW, with something unsent that quotes one of these."""
    found = []
    for path in sorted(folder.glob("*.txt")) if quotations else ():
        # One that is sent meanwhile is gone.
        with suppress(OSError):
            typed = path.read_text(encoding="utf-8", errors="replace")
            if quotations.within(typed):
                found.append(path.stem)
    return tuple(found)


def remove(folder: Path, conversation: str) -> None:
    """What was typed for a conversation that is deleted."""
    if conversation.isalnum():
        for path in (typed := path_of(folder, conversation), typed.with_suffix(FILES)):
            path.unlink(missing_ok=True)
