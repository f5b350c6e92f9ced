"""Which files are wholly in the memory, as of which content, and on whose words they lean.

Names of files and numbers of memories enter and leave, within the caller's transaction. A record is written with a
file's last chunk; until then, and where a memory that it leans on has gone, the file is owed another reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memory_store.dbfile import Connection

_OWED = ""
_FIND = (
    "SELECT f.id FROM filed f JOIN namespace n ON n.id = f.namespace JOIN source s ON s.id = f.source "
    "WHERE n.name = ? AND s.kind = 'file' AND s.name = ?"
)
_EVERY = (
    "SELECT s.name, f.digest FROM filed f JOIN namespace n ON n.id = f.namespace JOIN source s ON s.id = f.source "
    "WHERE n.name = ? ORDER BY f.id"
)
_WITH_CHUNKS = (
    "SELECT DISTINCT s.name FROM memory m JOIN source s ON s.id = m.source JOIN namespace n ON n.id = m.namespace "
    "WHERE s.kind = 'file' AND n.name = ?"
)


def whole(connection: Connection, namespace: str) -> dict[str, str]:
    """The files that are wholly in, with the digest of what was read."""
    return {name: digest for name, digest in connection.execute(_EVERY, (namespace,)) if digest != _OWED}


def owed(connection: Connection, namespace: str) -> list[str]:
    """The files that were begun and not ended, or lack what they leant on."""
    return [name for name, digest in connection.execute(_EVERY, (namespace,)) if digest == _OWED]


def named(connection: Connection, namespace: str) -> set[str]:
    """All files that have a chunk or a record here."""
    found = {name for name, _ in connection.execute(_EVERY, (namespace,))}
    return found | {name for (name,) in connection.execute(_WITH_CHUNKS, (namespace,))}


def begin(connection: Connection, namespace: str, source: int) -> int:
    """The file is being changed here: it is owed a reading until `end`. Returns the number of its record."""
    connection.execute("INSERT OR IGNORE INTO namespace (name) VALUES (?)", (namespace,))
    sql = (
        "INSERT INTO filed (namespace, source, digest) SELECT id, ?, ? FROM namespace WHERE name = ? "
        "ON CONFLICT (namespace, source) DO UPDATE SET digest = excluded.digest RETURNING id"
    )
    return int(connection.execute(sql, (source, _OWED, namespace)).fetchone()[0])


def end(connection: Connection, namespace: str, source: int, digest: str, leans: Sequence[int]) -> None:
    """The file is wholly in, but for what the memories `leans` say already; owed where one of these has gone."""
    record = begin(connection, namespace, source)
    connection.execute("DELETE FROM leaning WHERE filed = ?", (record,))
    connection.executemany("INSERT INTO leaning (num, filed) VALUES (?, ?)", ((num, record) for num in leans))
    sql = "SELECT 1 FROM leaning WHERE filed = ? AND num NOT IN (SELECT num FROM memory)"
    if connection.execute(sql, (record,)).fetchone() is None:
        connection.execute("UPDATE filed SET digest = ? WHERE id = ?", (digest, record))


def drop(connection: Connection, namespace: str, names: Iterable[str]) -> None:
    for name in names:
        connection.execute(f"DELETE FROM filed WHERE id IN ({_FIND})", (namespace, name))


def erased(connection: Connection, nums: Iterable[int], owners: Iterable[tuple[int, int]]) -> None:
    """These memories are gone. `owners`: their (namespace, source).

    Who leant on one of them is owed a reading; who has lost the last is known no more, unless it was owed one anyway.
    """
    lapsed = "UPDATE filed SET digest = ? WHERE id IN (SELECT filed FROM leaning WHERE num = ?)"
    connection.executemany(lapsed, ((_OWED, num) for num in nums))
    left = "SELECT 1 FROM memory m WHERE m.namespace = filed.namespace AND m.source = filed.source"
    sql = f"DELETE FROM filed WHERE namespace = ? AND source = ? AND digest <> ? AND NOT EXISTS ({left})"
    connection.executemany(sql, ((namespace, source, _OWED) for namespace, source in owners))
