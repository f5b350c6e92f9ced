"""What prompts had in common, for replays against eviction policies: token ids enter, a line of salted hashes leaves.

A number stands for GRANULE tokens and all that came before them, so equal numbers mean an equal beginning and nothing
else. Without the salt, which lies beside the file, no text can be tried against it; delete that once recording ends.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

GRANULE = 16
"""Tokens that one number stands for."""


class Recorder:
    """Appends one line per answered request to `path`, which several children may share.

    `problem` says why it stopped, where it did: an answer is worth more than a record of it.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._path = path
        self._salt = b""
        try:
            self._salt = _salt(path.with_name(path.name + ".salt"))
        except OSError as error:
            self._stop(error)

    def note(self, tokens: Sequence[int], prompt_length: int) -> None:
        """A request whose first `prompt_length` of `tokens` were its prompt; the rest is what the engine added."""
        if self.problem:
            return
        numbers = self._numbers(tokens)
        split = prompt_length // GRANULE
        line = json.dumps({"at": round(time.time(), 3), "prompt": numbers[:split], "answer": numbers[split:]})
        try:
            with open(self._path, "ab", opener=_private) as file:
                file.write(line.encode() + b"\n")
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self.problem = f"prompts are not recorded any more: {error.strerror}"

    def _numbers(self, tokens: Sequence[int]) -> list[int]:
        numbers, chain = [], b""
        for start in range(0, len(tokens) - GRANULE + 1, GRANULE):
            part = array("I", tokens[start : start + GRANULE]).tobytes()
            chain = blake2b(chain + part, key=self._salt, digest_size=6).digest()
            numbers.append(int.from_bytes(chain))
        return numbers


def _salt(path: Path) -> bytes:
    """The file's salt, made by whoever comes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f"{path.name}.{os.getpid()}")
    trial.touch(mode=0o600)
    trial.write_bytes(os.urandom(32))
    try:
        os.link(trial, path)
    except FileExistsError:
        pass
    finally:
        trial.unlink()
    return path.read_bytes()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
