"""The change log: every change of the store in order, and what it says is alive.

Rows of `log` enter and leave; what is derived from the store (indexes, graphs, caches) keeps the last `seq` that it
has seen, and follows from there. Erasure removes an erased memory's entries and leaves one "erase" with its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import cast

from memory_store.dbfile import Connection
from memory_store.records import Change, Op

ERASED_AT_ONCE = 65_536
_INSERT = "INSERT INTO log (op, num, time, body) VALUES (?, ?, ?, ?)"
_ADDS = "INSERT INTO log (op, num, time) SELECT 'add', num, recorded FROM memory WHERE num BETWEEN ? AND ? ORDER BY num"


def append(connection: Connection, op: Op, num: int, time: float, body: str | None = None) -> int:
    """Add one entry within the caller's transaction; returns its seq, which rises even where the clock does not."""
    return cast(int, connection.execute(_INSERT, (op, num, time, body)).lastrowid)


def append_many(connection: Connection, op: Op, nums: Iterable[int], time: float) -> None:
    connection.executemany(_INSERT, ((op, num, time, None) for num in nums))


def append_adds(connection: Connection, first: int, last: int) -> None:
    """The entries of memories that were just written: those with these numbers and between them, in order."""
    connection.execute(_ADDS, (first, last))


def changes(connection: Connection, after: int, limit: int = 1000) -> tuple[Change, ...]:
    """Entries with seq > `after`, oldest first."""
    rows = connection.execute(
        "SELECT seq, op, num, time, body FROM log WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
    )
    return tuple(Change(seq=seq, op=op, num=num, time=time, body=body) for seq, op, num, time, body in rows)


def piece(connection: Connection, after: int, limit: int) -> tuple[Change, ...]:
    """The next entries for an index to follow: erasures together, because one more costs it next to nothing."""
    found = changes(connection, after, limit)
    if len(found) < limit or any(change.op != "erase" for change in found):
        return found
    return tuple(takewhile(lambda change: change.op == "erase", changes(connection, after, ERASED_AT_ONCE)))


def last_seq(connection: Connection) -> int:
    """0 before the first change."""
    return cast(int, connection.execute("SELECT coalesce(max(seq), 0) FROM log").fetchone()[0])


def alive(connection: Connection) -> set[int]:
    """The numbers of all memories that the log has added and not erased: every index holds these and no others."""
    found: set[int] = set()
    for op, num in connection.execute("SELECT op, num FROM log WHERE op IN ('add', 'erase') ORDER BY seq"):
        (found.add if op == "add" else found.discard)(num)
    return found


def rewrite_erased(connection: Connection, nums: Sequence[int], time: float) -> None:
    """Take all entries of these memories out and put one "erase" for each at the end."""
    connection.executemany(
        "DELETE FROM log WHERE num = ? AND op NOT IN ('trust', 'embedder')", ((num,) for num in nums)
    )
    append_many(connection, "erase", nums, time)
