"""The lexical index on disk: one file, replaced as a whole, so that a start need not read every text again.

Segments and the log position that they stand for enter and leave. What does not fit the store is not loaded.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memory_store.errors import DiskFull
from memory_store.postings import Segment, sound, weighed

_log = logging.getLogger(__name__)
NAME = "words.npz"
FORMAT = 3
_PARTS = ("nums", "lengths", "starts", "docs", "times")

Spaces = dict[int, tuple[Segment, ...]]


def save(folder: Path, stamp: str, seq: int, spaces: Mapping[int, tuple[Segment, ...]]) -> None:
    """Durable at return; a crash leaves the file before. Raises DiskFull."""
    counts = {space: len(parts) for space, parts in spaces.items()}
    meta = json.dumps({"format": FORMAT, "stamp": stamp, "seq": seq, "spaces": counts})
    arrays: dict[str, np.ndarray] = {"meta": np.array(meta)}
    for space, parts in spaces.items():
        for at, part in enumerate(parts):
            arrays |= {f"{space}.{at}.{name}": getattr(part, name) for name in _PARTS}
            # Each term between two line ends, so that a search of the raw file finds it whole.
            listed = "\n".join(["", *part.vocabulary, ""]).encode()
            arrays[f"{space}.{at}.terms"] = np.frombuffer(listed, np.uint8)
    fresh = folder / (NAME + ".new")
    try:
        with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, folder / NAME)
    except OSError as error:
        raise DiskFull("the index cannot be written beside the memory file", "free some disk space") from error


def load(folder: Path, stamp: str) -> tuple[int, Spaces] | None:
    """(seq, segments by namespace); None where there is nothing, or nothing that belongs to this store."""
    try:
        with np.load(folder / NAME) as arrays:
            meta = json.loads(str(arrays["meta"]))
            if (meta["format"], meta["stamp"]) != (FORMAT, stamp):
                return None
            counts = {int(space): count for space, count in meta["spaces"].items()}
            return meta["seq"], {
                space: weighed([_segment(arrays, f"{space}.{at}") for at in range(count)])
                for space, count in counts.items()
            }
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        # Derived: whatever cannot be read is made again from the store.
        _log.warning("the index of words is damaged and is made again: %s", error)
        return None


def _segment(arrays: Mapping[str, np.ndarray], name: str) -> Segment:
    nums, lengths, starts, docs, times = (arrays[f"{name}.{part}"] for part in _PARTS)
    terms = arrays[f"{name}.terms"].tobytes().decode().split("\n")[1:-1]
    part = Segment(nums, lengths, {term: at for at, term in enumerate(terms)}, starts, docs, times)
    if not sound(part):
        raise ValueError(f"the parts of {name} do not fit each other")
    return part
