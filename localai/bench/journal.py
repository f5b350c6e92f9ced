"""The file that a run writes as it goes: one JSON line per entry, so that an interrupted run goes on where it stopped.

A line that was cut off by a crash is dropped; a block without its closing line is asked again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from localai.bench.rows import Block, End, Entry, Head, Idle, Resumed, Row
from localai.errors import Conflict, OutOfResources

FORMAT = 1
_SUFFIX = ".journal.jsonl"
_decode = msgspec.json.Decoder(Entry)


class Journal:
    """One run's entries, `head` first. Opened through `begin` or `resume`; `close` releases it."""

    def __init__(self, path: Path, file: BinaryIO, entries: list[Entry]) -> None:
        self.path = path
        self.entries = entries
        self._file = file

    @property
    def head(self) -> Head:
        head = self.entries[0]
        assert isinstance(head, Head)
        return head

    @property
    def done(self) -> set[tuple[str, int]]:
        """Configurations and rounds that are complete."""
        return {(e.config, e.round) for e in self.entries if isinstance(e, Block)}

    @property
    def rows(self) -> list[Row]:
        """The rows of complete blocks."""
        return rows_of(self.entries)

    @property
    def blocks(self) -> list[Block]:
        return [e for e in self.entries if isinstance(e, Block)]

    @property
    def idles(self) -> list[Idle]:
        return [e for e in self.entries if isinstance(e, Idle)]

    @property
    def resumptions(self) -> int:
        """How often the run went on after an interruption."""
        return sum(isinstance(e, Resumed) for e in self.entries)

    @property
    def finished(self) -> bool:
        return isinstance(self.entries[-1], End)

    def write(self, *entries: Entry) -> None:
        """Append, and have it on the disk. Raises OutOfResources."""
        try:
            self._file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutOfResources(f"the run cannot be written down: {error.strerror}", "free some space") from error
        self.entries += entries

    def close(self) -> None:
        self._file.close()


def folder(home: Path) -> Path:
    return home / "bench"


def begin(home: Path, head: Head) -> Journal:
    """A new journal in `home`. Raises OutOfResources."""
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(head.started)) + f"-{head.plan[:8]}"
    path = folder(home) / (name + _SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = _locked(path)
    except OSError as error:
        raise OutOfResources(f"the run cannot be written down: {error.strerror}", "free some space") from error
    journal = Journal(path, file, [])
    journal.write(head)
    return journal


def unfinished(home: Path, plan: str) -> Journal | None:
    """The newest run of this plan that was interrupted, ready to go on. Raises Conflict where it is still running."""
    for path in sorted(folder(home).glob(f"*-{plan[:8]}{_SUFFIX}"), reverse=True):
        entries = read(path)
        if not entries or not isinstance(entries[0], Head) or entries[0].plan != plan:
            continue
        if isinstance(entries[-1], End):
            return None
        file = _locked(path)
        # What a crash cut off in the middle of a line would spoil the next one.
        file.truncate(path.read_bytes().rfind(b"\n") + 1)
        journal = Journal(path, file, entries)
        journal.write(Resumed(at=time.time()))
        return journal
    return None


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """The rows of complete blocks."""
    found: list[Row] = []
    open_: list[Row] = []
    for entry in entries:
        if isinstance(entry, Row):
            open_.append(entry)
        elif isinstance(entry, Block):
            found += [row for row in open_ if (row.config, row.round) == (entry.config, entry.round)]
            open_ = []
        elif isinstance(entry, Resumed):
            open_ = []
    return found


def read(path: Path) -> list[Entry]:
    """All whole entries of a journal."""
    entries: list[Entry] = []
    for line in path.read_bytes().splitlines():
        try:
            entries.append(_decode.decode(line))
        except msgspec.MsgspecError:
            break
    return entries


def _locked(path: Path) -> BinaryIO:
    import fcntl

    file = path.open("ab")
    path.chmod(0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Conflict("this benchmark is running already", "wait for it, or stop the other one") from error
    return file


def config_rounds(configs: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Which block comes when: every configuration once per round, in an order that turns with the rounds."""
    order = []
    for number in range(rounds):
        start = number % len(configs)
        order += [(number, config) for config in (*configs[start:], *configs[:start])]
    return order
