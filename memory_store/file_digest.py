"""Is this a file that may be read, and what is its digest?

A path enters, a SHA-256 or an InvalidMemory leaves. It knows nothing of formats.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from memory_store.documents import MOST_BYTES
from memory_store.errors import InvalidMemory


def digest(path: Path) -> str:
    """In hexadecimal digits. Raises InvalidMemory for what is no plain, readable file of a bearable size."""
    _check(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(error) from error


def _check(path: Path) -> None:
    """The name is the author of what the file says, which is shown. A pipe or device would be read without end."""
    if not str(path).isprintable():
        hint = "rename it: memories are listed with the names of their files"
        raise InvalidMemory("the file's name has characters that cannot be shown", hint)
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidMemory("this is no plain file", "give a document, or a folder of documents")
    if found.st_size > MOST_BYTES:
        raise InvalidMemory(f"the file is larger than {MOST_BYTES >> 20} MiB", "cut it into parts")


def _unreadable(error: OSError) -> InvalidMemory:
    return InvalidMemory(f"the file cannot be read: {error.strerror}", "check that it is there and readable")
