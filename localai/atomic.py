"""Replacing a file whole: bytes enter, and after a crash the path holds either the old file or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from localai.errors import OutOfResources


def replace_file(path: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Write beside `path`, sync, rename over it; parent folders are made. Raises OutOfResources where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        written = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(handle)
            written.chmod(mode)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        hint = "free some space, or make its folder writable for you"
        raise OutOfResources(f"cannot write {path.name}: {error.strerror}", hint) from error
