"""The list of pages in use of a vector index: one small file beside the pages, replaced as a whole.

Shelves and the log position that they stand for enter and leave. What does not fit the store is not loaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memory_store.shelf import Shelf

NAME = "directory.npz"
FORMAT = 3


def lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed; None where another program has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def save(folder: Path, stamp: str, seq: int, shelves: Mapping[int, Shelf]) -> None:
    """Durable at return; a crash leaves the file before."""
    arrays = {"meta": np.array(json.dumps({"format": FORMAT, "stamp": stamp, "seq": seq, "spaces": list(shelves)}))}
    for space, shelf in shelves.items():
        arrays[f"{space}.pages"], arrays[f"{space}.rows"] = shelf.pages, np.array(shelf.rows)
    fresh = folder / (NAME + ".new")
    with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / NAME)


def drop(folder: Path) -> None:
    """Before pages that the list names are used for something else: no crash after that takes them for what they were.
    Durable at return."""
    (folder / NAME).unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path, stamp: str) -> tuple[int, dict[int, Shelf]] | None:
    """(seq, shelves); None where there is nothing, or nothing that belongs to this store and embedder."""
    try:
        with np.load(folder / NAME) as arrays:
            meta = json.loads(str(arrays["meta"]))
            if (meta["format"], meta["stamp"]) != (FORMAT, stamp):
                return None
            return meta["seq"], {
                space: Shelf(arrays[f"{space}.pages"], int(arrays[f"{space}.rows"])) for space in meta["spaces"]
            }
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
        # Derived: whatever cannot be read is made again from the store.
        return None
