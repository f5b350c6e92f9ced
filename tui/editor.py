"""The person's own editor: a text enters, what was saved leaves. Blocks until the editor ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path


def edited(text: str) -> str:
    """`text` as it is after $VISUAL, else $EDITOR, else vi; unchanged where the editor cannot be started or fails."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="localai-") as folder:
        path = Path(folder) / "message.md"
        path.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(command), str(path)], check=False)
        except OSError:
            return text
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n") if done.returncode == 0 else text
