"""Forgetting with proof: rows, full-text, vectors, log and free pages go, then the raw files are searched.

Ids or a filter enter, a Receipt leaves. The receipt holds no text of what was forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from memory_store import filed, learned, log, rows, scrub, withheld
from memory_store.dbfile import Connection
from memory_store.errors import InvalidMemory, StoreBusy
from memory_store.records import Memory
from memory_store.residue import Find, Pieces, Scanner
from memory_store.rows import Filter
from memory_store.store import Store
from memory_store.vector_rows import embedders, slot

LEAST_WORD = 8
# The name of a person or a file is erased with their last memory, unless there is evidence on them to keep.
_UNUSED_NAMES = (
    "DELETE FROM source WHERE id NOT IN (SELECT source FROM memory UNION SELECT source FROM evidence UNION "
    "SELECT judge FROM evidence UNION SELECT source FROM filed)",
    "DELETE FROM namespace WHERE id NOT IN (SELECT namespace FROM memory UNION SELECT namespace FROM filed)",
)
_WORD = re.compile(r"[^\W_]+")


class Derived(Protocol):
    """An index, cache or graph that is made from the store and keeps bytes of its own."""

    def traces(self, nums: Sequence[int]) -> Sequence[bytes]:
        """What it holds of these memories, as it lies in its files; asked before `erase`."""

    def erase(self, nums: Sequence[int]) -> None:
        """Rewrite its files without these memories; durable at return."""

    def files(self) -> Sequence[Path]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was removed and what a search of the raw files found after it.

    `cascaded`: ids of derived facts that went with what they rest on. `removed`: rows by table. `scanned`: bytes by
    file name. `pieces`: byte strings looked for, `sampled` of them where there were too many. `residue`: finds that no
    living row explains, as (file name, offset). `rewritten`: the file was written anew (VACUUM). `open_reader`: a
    reader kept the write-ahead log; the next start finishes.
    """

    ids: tuple[str, ...]
    cascaded: tuple[str, ...]
    nums: tuple[int, ...]
    time: float
    removed: dict[str, int]
    scanned: dict[str, int]
    pieces: int
    sampled: int
    residue: tuple[tuple[str, int], ...]
    rewritten: bool
    open_reader: bool

    @property
    def complete(self) -> bool:
        return not self.residue and not self.open_reader


@dataclass(frozen=True, slots=True)
class _Victims:
    memories: tuple[Memory, ...]
    cascaded: tuple[Memory, ...]
    pieces: Pieces

    @property
    def nums(self) -> list[int]:
        return [memory.num for memory in (*self.memories, *self.cascaded)]


def forget(
    store: Store,
    *,
    ids: Sequence[str] = (),
    chosen: Filter | None = None,
    derived: Sequence[Derived] = (),
    also: Sequence[Path] = (),
    patience_seconds: float = 15.0,
    lasting: bool = False,
) -> Receipt:
    """Erase the memories with these ids and those that `chosen` selects, with the derived facts that rest on them.

    `derived` is erased with them; `also` are further files to search (answer cache, ledger, logs). Durable at return.
    If the process dies before that, the memories are gone or all there, and the next start finishes the scrubbing.
    `patience_seconds` is for readers that hold the write-ahead log. `lasting`: what documents said is not read from
    them again before it changes. Raises NoSuchMemory for an unknown id, StoreBusy,
    DiskFull.
    """
    if chosen is not None and chosen == Filter():
        raise InvalidMemory("a filter without a condition would forget everything", "name an author, namespace or time")
    victims = store.write(lambda connection: _gather(connection, ids, chosen))
    for index in derived:
        victims.pieces.add(index.traces(victims.nums))
    now = store.clock()
    noted = victims.memories if lasting else ()
    removed = store.write(lambda connection: _remove(connection, victims.nums, now, store, noted))
    for index in derived:
        index.erase(victims.nums)
    words = {word for memory in victims.memories for word in _words(memory.text)}
    with store.reading() as connection:
        victims.pieces.add(_gone(connection, words))
    scanner = Scanner(victims.pieces)
    files = [(path, scanner) for path in (*store_files(store.path), *also)]
    # Files of indexes hold numbers, not text: shorter byte strings are in them by chance.
    files += [(path, scanner.without_short()) for index in derived for path in index.files()]
    open_reader, rewritten = not _empty(store, patience_seconds), False
    finds, scanned = _search(store, files)
    if any(find.path in store_files(store.path) for find in finds):
        store.maintain(scrub.rewrite)
        open_reader, rewritten = not _empty(store, patience_seconds), True
        finds, scanned = _search(store, files)
        # A rewritten file holds living rows only: there, few bytes stand across two columns or in a number by chance.
        own = store_files(store.path)
        finds = [find for find in finds if len(find.piece) >= LEAST_WORD or find.path not in own]
    if not finds and not open_reader:
        store.write(scrub.end)
        open_reader = not _empty(store, patience_seconds)
    return Receipt(
        ids=tuple(memory.id for memory in victims.memories),
        cascaded=tuple(memory.id for memory in victims.cascaded),
        nums=tuple(victims.nums),
        time=now,
        removed=removed,
        scanned=scanned,
        pieces=scanner.given,
        sampled=scanner.kept,
        residue=tuple((find.path.name, find.offset) for find in finds),
        rewritten=rewritten,
        open_reader=open_reader,
    )


def store_files(path: Path) -> tuple[Path, ...]:
    """The file and what SQLite keeps beside it."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _gather(connection: Connection, ids: Sequence[str], chosen: Filter | None) -> _Victims:
    asked = dict.fromkeys(rows.numbers_of_ids(connection, ids))
    asked |= dict.fromkeys(rows.numbers(connection, chosen) if chosen is not None else ())
    memories = rows.many(connection, list(asked))
    gone = {memory.id for memory in memories}
    resting = connection.execute("SELECT num, derived_from FROM memory WHERE kind = 'derived' ORDER BY num")
    more = [num for num, grounds in resting if num not in asked and gone & set(json.loads(grounds))]
    cascaded = rows.many(connection, more)
    every = (*memories, *cascaded)
    pieces = Pieces()
    pieces.add_texts(text for memory in every for text in (memory.text, *memory.tags))
    pieces.add(halves for memory in every for halves in _vectors(connection, memory.num))
    return _Victims(memories, cascaded, pieces)


def _vectors(connection: Connection, num: int) -> list[bytes]:
    found = []
    for embedder in embedders(connection):
        at = (slot(embedder.id, num),)
        found += [halves for (halves,) in connection.execute("SELECT halves FROM vector WHERE slot = ?", at)]
    return found


def _remove(
    connection: Connection, nums: Sequence[int], now: float, store: Store, noted: Sequence[Memory]
) -> dict[str, int]:
    store.forget_names()
    withheld.note(connection, store.salt, noted)
    scrub.begin(connection)
    removed = {"memory": 0, "vector": 0, "evidence": 0, "source": 0, "feedback": learned.erase(connection, nums)}
    ids = [embedder.id for embedder in embedders(connection)]
    owners = set[tuple[int, int]]()
    for num in nums:
        row = connection.execute("SELECT text, namespace, source FROM memory WHERE num = ?", (num,)).fetchone()
        if row is None:
            continue
        owners.add(row[1:])
        connection.execute("INSERT INTO memory_text (memory_text, rowid, text) VALUES ('delete', ?, ?)", (num, row[0]))
        for embedder in ids:
            done = connection.execute("DELETE FROM vector WHERE slot = ?", (slot(embedder, num),))
            removed["vector"] += done.rowcount
        removed["evidence"] += connection.execute("DELETE FROM evidence WHERE num = ?", (num,)).rowcount
        removed["memory"] += connection.execute("DELETE FROM memory WHERE num = ?", (num,)).rowcount
    filed.erased(connection, nums, owners)
    removed["source"] += drop_unused_names(connection)
    log.rewrite_erased(connection, nums, now)
    scrub.merge_full_text(connection)
    return removed


def drop_unused_names(connection: Connection) -> int:
    """Within a transaction, after `Store.forget_names`. Returns how many went."""
    return sum(connection.execute(sql).rowcount for sql in _UNUSED_NAMES)


def _empty(store: Store, patience_seconds: float) -> bool:
    try:
        store.maintain(lambda connection: scrub.empty_log(connection, patience_seconds))
    except StoreBusy:
        return False
    return True


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text) if len(word) >= LEAST_WORD}


def _gone(connection: Connection, words: set[str]) -> set[bytes]:
    """Words that no living text has: the full-text index must not hold them either."""
    sql = "SELECT 1 FROM memory_text WHERE memory_text MATCH ? LIMIT 1"
    return {word.encode() for word in words if connection.execute(sql, (f'"{word}"',)).fetchone() is None}


def _search(store: Store, files: Sequence[tuple[Path, Scanner]]) -> tuple[list[Find], dict[str, int]]:
    finds: list[Find] = []
    scanned: dict[str, int] = {}
    for path, scanner in files:
        found, size = scanner.scan(path)
        finds += found
        if size:
            scanned[path.name] = size
    if not finds:
        return [], scanned
    with store.reading() as connection:
        explained = Scanner({find.piece for find in finds}).among(_living(connection))
    return [find for find in finds if find.piece not in explained], scanned


def _living(connection: Connection) -> Iterator[bytes]:
    """All bytes that may be in the file: what they explain tells nothing of the erased."""
    labels = "tags || ' ' || state || kind || taint || ' ' || ifnull(place, '') || ' ' || ifnull(episode, '')"
    for sql in (
        f"SELECT text || ' ' || {labels} || ' ' || ifnull(digest, '') || ' ' || id FROM memory",
        "SELECT name FROM source",
        "SELECT name FROM namespace",
        "SELECT digest || ' ' || state FROM embedder",
        "SELECT digest FROM filed",
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL",
    ):
        for (text,) in connection.execute(sql):
            yield text.encode()
            yield text.casefold().encode()
    for (halves,) in connection.execute("SELECT halves FROM vector"):
        yield halves
