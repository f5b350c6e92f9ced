"""A damaged file read row by row, into a new one that takes its place; the damaged one stays beside it.

A path enters, what was saved leaves. Nobody may have the file open. The texts are the truth: indexes, vectors and the
log are made anew, and what was learned from feedback is begun anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from memory_store.cipher import Key
from memory_store.dbfile import Connection, DatabaseFile, driver_errors, translated
from memory_store.doctor import index_anew
from memory_store.embed import Embedder
from memory_store.errors import InvalidMemory, StoreUnusable
from memory_store.export import BATCH, Record, bring_in
from memory_store.intake import check_text
from memory_store.records import DEFAULT_NAMESPACE, Author
from memory_store.store import Store

DAMAGED, FRESH = ".damaged", ".salvaged"
UNKNOWN = Author(kind="agent", name="unknown since the file was damaged")
"""Whose name cannot be read is trusted as little as a stranger."""
_COLUMNS = (
    "num, id, namespace, source, kind, taint, state, time, recorded, valid_from, valid_to, digest, place, episode, "
    "position, tags, derived_from, text"
)
_HIGHEST = (
    "SELECT seq FROM sqlite_sequence WHERE name = 'memory'",
    "SELECT max(num) FROM memory",
    "SELECT max(num) FROM memory INDEXED BY memory_fingerprint",
    "SELECT max(num) FROM log WHERE op = 'add'",
    "SELECT max(slot & 1099511627775) FROM vector",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """How many memories were saved; `lost`: how many more there were, by the log as far as that can be read;
    `nameless`: memories whose author or namespace could not be read. `damaged`: where the file of before lies.
    """

    memories: int
    lost: int
    nameless: int
    damaged: Path


def salvage(path: Path, *, embedder: Embedder | None = None, key: Key | None = None) -> Salvaged:
    """Raises StoreUnusable where nothing can be read or an earlier damaged file is there, StoreLocked, DiskFull; then
    all is as it was.
    """
    fresh, kept = path.with_name(path.name + FRESH), path.with_name(path.name + DAMAGED)
    if kept.exists():
        raise StoreUnusable(f"{kept} of an earlier salvage is still there", "move it away, or remove it")
    _remove(fresh)
    damaged = DatabaseFile(path, key).raw()
    try:
        saved = _Reader(damaged)
        _begun(fresh, key, saved)
        store = Store(fresh, embedder=embedder, key=key)
        try:
            count, nameless = _filled(store, saved)
        finally:
            store.close()
        lost = max(0, saved.alive() - count)
    except BaseException:
        _remove(fresh)
        raise
    finally:
        damaged.close()
    return Salvaged(memories=count, lost=lost, nameless=nameless, damaged=_in_place(path, fresh, kept))


class _Reader:
    """What a damaged file still says. Raises StoreUnusable where its tables cannot be found."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with suppress(*driver_errors()):
            connection.execute("PRAGMA query_only = ON")
        self.highest = max(((self._first(sql) or (0,))[0] or 0 for sql in _HIGHEST), default=0)
        if not self.highest:
            hint = "move it away with the files beside it, and `localai memory import` what was exported last"
            raise StoreUnusable("nothing can be read of the memory file", hint)
        self.namespaces = {row[0]: row[1] for row in self.rows("namespace", "id, name")}
        self.sources = {row[0]: (row[1], row[2]) for row in self.rows("source", "id, kind, name")}
        self.judgements: dict[int, list[tuple[Any, ...]]] = {}
        for row in self.rows("evidence", "num, judge, verdict, weight, time"):
            self.judgements.setdefault(row[0], []).append(row[1:])

    @property
    def salt(self) -> bytes | None:
        found = self._first("SELECT value FROM meta WHERE key = 'salt'")
        return None if found is None else found[0]

    def memories(self) -> Iterator[tuple[Any, ...]]:
        """One by one: a page that cannot be read takes those on it alone."""
        for num in range(1, self.highest + 1):
            found = self._first(f"SELECT {_COLUMNS} FROM memory WHERE num = {num}")
            if found is not None:
                yield found

    def alive(self) -> int:
        """How many there were, as far as the log tells; 0 where it does not."""
        erased = "SELECT num FROM log WHERE op = 'erase'"
        found = self._first(f"SELECT count(DISTINCT num) FROM log WHERE op = 'add' AND num NOT IN ({erased})")
        return 0 if found is None else int(found[0])

    def rows(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        """Up to the first that cannot be read: of the table, then of an index that has all of it. Some come twice."""
        for way in (" NOT INDEXED", ""):
            with suppress(*driver_errors()):
                yield from self._connection.execute(f"SELECT {columns} FROM {table}{way}")

    def _first(self, sql: str) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._connection.execute(sql).fetchone()
        except driver_errors():
            return None
        return found


def _begun(fresh: Path, key: Key | None, saved: _Reader) -> None:
    """The salt goes first: what was forgotten of documents is known by it."""
    file = DatabaseFile(fresh, key)
    file.create()
    connection = file.connect()
    try:
        with translated():
            if saved.salt is not None:
                connection.execute("UPDATE meta SET value = ? WHERE key = 'salt'", (saved.salt,))
                withheld = list(saved.rows("withheld", "text, file"))
                connection.executemany("INSERT OR IGNORE INTO withheld (text, file) VALUES (?, ?)", withheld)
    finally:
        connection.close()


def _filled(store: Store, saved: _Reader) -> tuple[int, int]:
    """(memories, nameless). Derived facts whose ground is lost are lost with it."""
    batch, count, nameless = list[Record](), 0, 0
    there = set[str]()
    for row in saved.memories():
        record, known = _record(row, saved)
        if record is None or not there.issuperset(record.derived_from):
            continue
        there.add(record.id)
        nameless += not known
        batch.append(record)
        if len(batch) >= BATCH:
            count += bring_in(store, batch)
            batch.clear()
    count += bring_in(store, batch)
    index_anew(store)
    return count, nameless


def _record(row: tuple[Any, ...], saved: _Reader) -> tuple[Record | None, bool]:
    """The memory, None where what was read is none; and whether its author and namespace are known."""
    fields = dict(zip(_COLUMNS.replace(" ", "").split(","), row, strict=True))
    num, source, namespace = fields.pop("num"), fields.pop("source"), fields["namespace"]
    kind, name = saved.sources.get(source, (UNKNOWN.kind, UNKNOWN.name))
    known = source in saved.sources and namespace in saved.namespaces
    said = [(saved.sources.get(by), *rest) for by, *rest in saved.judgements.get(num, [])]
    evidence = [
        {"judge_kind": by[0], "judge": by[1], "verdict": verdict, "weight": weight, "time": time}
        for by, verdict, weight, time in said
        if by is not None
    ]
    try:
        fields |= {name: json.loads(fields[name]) for name in ("tags", "derived_from")}
        fields |= {"author_kind": kind, "author": name, "evidence": evidence}
        fields["namespace"] = saved.namespaces.get(namespace, DEFAULT_NAMESPACE)
        record = msgspec.convert(fields, Record)
        check_text(record.text)
    except (msgspec.ValidationError, InvalidMemory, ValueError, TypeError):
        return None, known
    return record, known


def _in_place(path: Path, fresh: Path, damaged: Path) -> Path:
    """A crash in between leaves the damaged file where it was, or the new one."""
    os.link(path, damaged)
    for end in ("-wal", "-shm"):
        beside = path.with_name(path.name + end)
        if beside.exists():
            # Beside the new file SQLite would take it for that one's.
            os.replace(beside, damaged.with_name(damaged.name + end))
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return damaged


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
