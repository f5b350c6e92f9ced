"""The one SQLite file: opened for this user only, schema brought up to date, SQLite's errors in our words.

A path and perhaps a key enter, connections leave. It knows nothing of what the tables hold.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database, Migrations

from memory_store.cipher import Key, encrypted_connection
from memory_store.errors import DiskFull, MemoryStoreError, StoreBusy, StoreLocked, StoreTooNew, StoreUnusable
from memory_store.schema import STEPS

Connection = sqlite3.Connection

JOURNAL_BYTES = 64 << 20
CHECKPOINT_PAGES = 16_000
CACHE_KIB = 32 << 10
MAPPED_BYTES = 256 << 20
_DAMAGED = (
    "try `localai memory doctor --repair`; where that cannot open it either, `localai memory doctor --salvage` puts "
    "what can still be read into a new file"
)
_WRITABLE = "check that the folder exists, belongs to you and can be written to"


class DatabaseFile:
    """One file and how to connect to it. `key` None means plain SQLite."""

    def __init__(self, path: Path, key: Key | None = None, busy_seconds: float = 5.0) -> None:
        self.path = path
        self._key = key
        self._busy = busy_seconds

    def create(self) -> None:
        """Make the file where it is missing and apply the schema steps that it lacks.

        Raises StoreUnusable, StoreTooNew, StoreLocked, StoreBusy; a file that cannot be used is left as it was.
        """
        try:
            # Created here because SQLite would make it readable for others.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreUnusable(f"the memory file cannot be opened: {error.strerror}", _WRITABLE) from error
        connection = self.connect()
        try:
            with translated():
                _migrate(connection)
        finally:
            connection.close()

    def raw(self) -> Connection:
        """A connection as the driver gives it, with no setting made: for a file that may be damaged."""
        with translated():
            return self._open()

    def connect(self, *, read_only: bool = False) -> Connection:
        """A connection in autocommit mode that may pass between threads. Raises as `create` does."""
        with translated():
            connection = self._open()
            try:
                _prepare(connection, read_only, self.path.stat().st_size)
            except BaseException:
                connection.close()
                raise
        return connection

    def _open(self) -> Connection:
        if self._key is not None:
            return encrypted_connection(self.path, self._key, self._busy)
        return sqlite3.connect(self.path, timeout=self._busy, check_same_thread=False, isolation_level=None)


def _prepare(connection: Connection, read_only: bool, size: int) -> None:
    if read_only:
        # Nothing else: settings of the file would take the write lock, and wait for a writer.
        connection.execute("PRAGMA query_only = ON")
        # Of a file that is small as memory goes, searches read rows in place; a large one would fill the memory.
        connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES if size <= MAPPED_BYTES else 0}")
        return
    # Only an empty file takes this setting; it must precede the first table and the journal mode.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Zeroing every page that a full-text merge frees halves the rate of writes; erasure sees to free pages itself.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _migrate(connection: Connection) -> None:
    db = Database(connection, execute_plugins=False)
    migrations = Migrations("memory")
    for step in STEPS:
        migrations()(step)
    known = {step.__name__ for step in STEPS}
    unknown = [applied.name for applied in migrations.applied(db) if applied.name not in known]
    if unknown:
        raise StoreTooNew(
            f"the memory file was written by a newer localai ({unknown[-1]} is not known here)",
            "upgrade localai-daemon, or use another file",
        )
    migrations.apply(db)


def driver_errors() -> tuple[type[Exception], ...]:
    """The error roots of the drivers in use: the one for encrypted files has a tree of its own."""
    cipher: Any = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error,) if cipher is None else (sqlite3.Error, cipher.Error)


@contextmanager
def translated() -> Iterator[None]:
    """The one seam where SQLite's errors become the memory's."""
    try:
        yield
    except driver_errors() as error:
        raise error_for(error) from error


def error_for(error: Exception) -> MemoryStoreError:
    kind = getattr(error, "sqlite_errorname", None) or ""
    if kind == "SQLITE_FULL":
        return DiskFull("no space is left for the memory file", "free some disk space, then try again")
    if kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreBusy("the memory file is in use by another program", "close that program, then try again")
    if kind == "SQLITE_NOTADB":
        hint = "an encrypted memory needs `memory_encrypted = 1` and its key in the OS keyring; or it is no memory"
        return StoreLocked("the memory file is encrypted with another key, or is no SQLite database", hint)
    if kind.startswith("SQLITE_CORRUPT"):
        return StoreUnusable("the memory file is damaged", _DAMAGED)
    if kind.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreUnusable(f"the memory file cannot be used: {error}", _WRITABLE)
    return MemoryStoreError(f"the memory file refused the request: {error}", "`localai logs` tells more")
