"""The list of all blocks on the SSD, shared by the daemon and its children: SQLite in WAL mode, beside the blocks.

Bytes are reserved here before a file is written, in one transaction over all processes, so the cap holds at every
moment. A row is `ready` only after its file has its final name.
"""

from __future__ import annotations

import os
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.kv.block_file import OVERHEAD

NAME = "index.db"
VERSION = 1
LEASE_S = 30.0
_BUSY_S = 10.0

Reserved = Literal["reserved", "there", "full"]

_SCHEMA = """
create table blocks (
    key blob primary key, root blob not null, parent blob not null, start integer not null, tokens blob not null,
    bytes integer not null, ready integer not null, owner integer not null, cost_s real not null,
    uses integer not null, created real not null, used real not null
) without rowid;
create index blocks_by_root on blocks (root);
create table leases (key blob not null, owner integer not null, until real not null, primary key (key, owner))
    without rowid;
create table totals (name text primary key, value integer not null) without rowid;
insert into totals values ('bytes', 0), ('written', 0), ('evicted', 0);
create trigger block_added after insert on blocks begin
    update totals set value = value + new.bytes where name = 'bytes';
end;
create trigger block_gone after delete on blocks begin
    update totals set value = value - old.bytes where name = 'bytes';
    delete from leases where key = old.key;
end;
"""


class IndexUnusable(Exception):
    """The index cannot be used: the folder cannot be written, the file is damaged, or of a newer program."""


@dataclass(frozen=True, slots=True)
class Row:
    """One block: `bytes` is the size of its file, `cost_s` what computing it took; times are Unix seconds."""

    key: bytes
    root: bytes
    parent: bytes
    start: int
    tokens: array[int]
    bytes: int
    cost_s: float
    uses: int
    created: float
    used: float
    ready: int = 0
    owner: int = 0


class Index:
    """One connection, for one thread at a time. Raises IndexUnusable wherever the file is of no use any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        with _translated():
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Created here because SQLite would make it readable for others.
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                self._inode = self._path.stat().st_ino
            except OSError as error:
                raise IndexUnusable(error.strerror or "the folder cannot be used") from error
            self._db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        with self._transaction():
            (version,) = self._db.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise IndexUnusable(f"the cache's index is of a newer localai (version {version})")
            if version == 0:
                for statement in _statements(_SCHEMA):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated():
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    @property
    def current(self) -> bool:
        """False where the file under this name is not the one that was opened, because somebody cleared the folder."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        self._db.close()

    # -- writing

    def reserve(self, row: Row, cap: int) -> Reserved:
        """Take `row.bytes` of the `cap` that all children share, unless the block is there or they are not left."""
        values = (row.key, row.root, row.parent, row.start, row.tokens.tobytes(), row.bytes, 0, row.owner)
        numbers = (row.cost_s, row.uses, row.created, row.used)
        with self._transaction():
            # A reservation under this key is of a writer that died: live ones have their own roots.
            self._db.execute("delete from blocks where key = ? and ready = 0", (row.key,))
            if self._db.execute("select 1 from blocks where key = ?", (row.key,)).fetchone():
                return "there"
            made = self._db.execute(
                "insert into blocks select ?,?,?,?,?,?,?,?,?,?,?,?"
                " where (select value from totals where name = 'bytes') + ? <= ?",
                (*values, *numbers, row.bytes, cap),
            )
            return "reserved" if made.rowcount == 1 else "full"

    def commit(self, key: bytes) -> None:
        """The file has its name now."""
        with self._transaction():
            self._db.execute("update blocks set ready = 1 where key = ?", (key,))
            self._db.execute("update totals set value = value + 1 where name = 'written'")

    def forget(self, keys: Iterable[bytes], *, evicted: bool = False) -> None:
        """Their files are gone."""
        with self._transaction():
            gone = self._db.executemany("delete from blocks where key = ?", [(key,) for key in keys]).rowcount
            if evicted:
                self._db.execute("update totals set value = value + ? where name = 'evicted'", (gone,))

    def touch(self, uses: dict[bytes, int], when: float) -> None:
        """Add to the use counts of blocks."""
        with self._transaction():
            given = [(count, when, key) for key, count in uses.items()]
            self._db.executemany("update blocks set uses = uses + ?, used = ? where key = ?", given)

    def lease(self, keys: Iterable[bytes], owner: int) -> None:
        """Keep blocks from being evicted for a while, because they are about to be read."""
        until = time.time() + LEASE_S
        with self._transaction():
            self._db.execute("delete from leases where until < ?", (time.time(),))
            self._db.executemany("insert or replace into leases values (?, ?, ?)", [(k, owner, until) for k in keys])

    def rewrite(self) -> None:
        """Write the file anew, without what removed rows have left in it."""
        with _translated():
            self._db.execute("vacuum")
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    # -- reading

    def rows(self, root: bytes | None = None) -> list[Row]:
        """The blocks under one root, or all, parents before children."""
        condition, values = ("where root = ?", (root,)) if root is not None else ("", ())
        columns = "key, root, parent, start, tokens, bytes, cost_s, uses, created, used, ready, owner"
        with _translated():
            found = self._db.execute(f"select {columns} from blocks {condition} order by start", values).fetchall()
        return [Row(k, top, up, start, array("I", tokens), *rest) for k, top, up, start, tokens, *rest in found]

    def leased(self) -> set[bytes]:
        with _translated():
            return {key for (key,) in self._db.execute("select key from leases where until >= ?", (time.time(),))}

    def totals(self) -> dict[str, int]:
        """`bytes` of all files, blocks `written` and `evicted` since the index was made, and `blocks` now."""
        with _translated():
            counted = dict(self._db.execute("select name, value from totals").fetchall())
            (counted["blocks"],) = self._db.execute("select count(*) from blocks").fetchone()
        return counted


def file_size(payload: int) -> int:
    """Bytes that a block with a content of `payload` bytes takes on the SSD."""
    return payload + OVERHEAD


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise IndexUnusable(str(error)) from error
