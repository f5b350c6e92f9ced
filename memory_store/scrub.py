"""Leaves nothing of deleted rows in the file: no free pages, merged full-text segments, an empty write-ahead log.

A connection enters; the file is rewritten where needed. `begin` and `end` mark the work in the file itself, so that a
process that dies in between is followed by one that finishes.
"""

from __future__ import annotations

import time

from memory_store.dbfile import Connection
from memory_store.errors import StoreBusy

_MARK = "erasing"


def begin(connection: Connection) -> None:
    """Within the transaction that deletes: from here on the file owes a scrub, and deletes zero."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_MARK, b"1"))


def end(connection: Connection) -> None:
    """Within a transaction, after the files were searched."""
    connection.execute("PRAGMA secure_delete = FAST").fetchall()
    connection.execute("DELETE FROM meta WHERE key = ?", (_MARK,))


def owed(connection: Connection) -> bool:
    return connection.execute("SELECT 1 FROM meta WHERE key = ?", (_MARK,)).fetchone() is not None


def merge_full_text(connection: Connection) -> None:
    """Within a transaction: deleted words stay in full-text segments until these are merged, secure_delete or not."""
    connection.execute("INSERT INTO memory_text (memory_text) VALUES ('optimize')")


def empty_log(connection: Connection, patience_seconds: float = 5.0) -> None:
    """Cut the free pages off the file, move the write-ahead log into it and cut that to no bytes.

    Raises StoreBusy while a reader still needs the log.
    """
    connection.execute("PRAGMA incremental_vacuum").fetchall()
    deadline = time.monotonic() + patience_seconds
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise StoreBusy(
                "a reader holds the write-ahead log, which may still contain erased text",
                "close other programs that read the memory; the next start finishes the erasure",
            )
        time.sleep(0.02)


def rewrite(connection: Connection) -> None:
    """Write the whole file anew, without what page splits left between rows. Needs its size in free space."""
    connection.execute("VACUUM")


def finish(connection: Connection) -> None:
    """At the start, where an earlier process died while erasing. Raises StoreBusy, DiskFull through the caller."""
    merge_full_text(connection)
    rewrite(connection)
    empty_log(connection)
    end(connection)
    empty_log(connection)
