"""What is typed and attached and not sent, in files for each conversation, so that a killed terminal loses no word."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from localai.unsent import FILES, NEW, path_of


class Drafts:
    """In `folder`, which is made when it is needed; None keeps nothing. What cannot be written is not kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}

    def of(self, conversation: str | None) -> str:
        """What was typed for it; "" where there is nothing."""
        path = self._path(conversation)
        if path is None:
            return ""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def files_of(self, conversation: str | None) -> tuple[Path, ...]:
        """The files that were attached; their texts are not kept here."""
        path = self._path(conversation)
        if path is None:
            return ()
        try:
            return tuple(map(Path, json.loads(path.with_suffix(FILES).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            return ()

    def keep(self, conversation: str | None, text: str, files: Sequence[Path] = ()) -> None:
        """Each replaced whole, so that a crash leaves what was before or what is after."""
        path = self._path(conversation)
        if path is not None:
            self._replace(path, text if text.strip() else "")
            self._replace(path.with_suffix(FILES), json.dumps([str(each) for each in files]) if files else "")

    def _replace(self, path: Path, text: str) -> None:
        if self._written.get(path.name) == text:
            return
        self._written[path.name] = text
        with suppress(OSError):
            if not text:
                path.unlink(missing_ok=True)
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            fresh.replace(path)

    def _path(self, conversation: str | None) -> Path | None:
        name = conversation or NEW
        # It comes from the command line too.
        return path_of(self._folder, name) if self._folder is not None and name.isalnum() else None
