"""One SQLite file of the daemon: opened for this user only, its schema brought up to date, its errors in our words.

A path and a list of schema steps enter, an open sqlite-utils Database leaves. It knows nothing of what the tables hold.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database, Migrations

from localai.errors import ConfigError, LocalaiError, OutOfResources, Unavailable

Step = Callable[[Database], None]


def open_file(path: Path, name: str, steps: Sequence[Step]) -> Database:
    """Open or create `path` in WAL mode with foreign keys on, and apply the steps that it lacks.

    Each step runs in one transaction with the record that it ran. The connection may pass between threads; the caller
    holds a lock. `name` says in errors which file it is. Raises ConfigError where the file cannot be opened, is
    damaged, or was written by a newer program; such a file is left as it was.
    """
    with translated(name):
        try:
            # Created here because SQLite would make it readable for others.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise ConfigError(f"the {name} file cannot be opened: {error.strerror}", _WRITABLE) from error
        db = Database(sqlite3.connect(path, check_same_thread=False, timeout=5), execute_plugins=False)
        try:
            _migrate(db, name, steps)
        except BaseException:
            db.close()
            raise
    return db


def _migrate(db: Database, name: str, steps: Sequence[Step]) -> None:
    migrations = Migrations(name)
    for step in steps:
        migrations()(step)
    known = {step.__name__ for step in steps}
    unknown = [applied.name for applied in migrations.applied(db) if applied.name not in known]
    if unknown:
        raise ConfigError(
            f"the {name} file was written by a newer localai ({unknown[-1]} is not known here)",
            "upgrade localai-daemon, or point LOCALAI_HOME at another folder",
        )
    db.enable_wal()
    db.execute("PRAGMA foreign_keys = ON")
    migrations.apply(db)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """The one seam where SQLite's errors become the daemon's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _error_for(error, name) from error


def _error_for(error: sqlite3.Error, name: str) -> LocalaiError:
    kind = getattr(error, "sqlite_errorname", None) or ""
    if kind == "SQLITE_FULL":
        return OutOfResources(f"no space is left for the {name} file", "free some disk space, then try again")
    if kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(f"the {name} file is in use by another program", "close that program, then try again")
    if kind.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        hint = "move it out of LOCALAI_HOME to begin a new one; keep it, `sqlite3 FILE .recover` may still read it"
        return ConfigError(f"the {name} file is damaged, or is no SQLite database", hint)
    if kind.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return ConfigError(f"the {name} file cannot be used: {error}", _WRITABLE)
    return LocalaiError(f"the {name} file refused the request: {error}", "`localai logs` tells more")


_WRITABLE = "check that LOCALAI_HOME can be written to"
