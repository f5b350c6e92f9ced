"""Is every memory findable? Compares the log, the text, the full-text index and the vectors, and repairs what differs.

A Store enters, a Diagnosis leaves. The text is the truth: everything else can be made from it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from memory_store import log, scrub, vector_rows
from memory_store.dbfile import Connection, driver_errors, error_for
from memory_store.embed import checked
from memory_store.errors import EmbedderFault, StoreUnusable
from memory_store.standby import Standby, strict
from memory_store.store import Store
from memory_store.vector_rows import NUM_BITS
from memory_store.words import Words

BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What does not fit, by number of the memory; `file` holds SQLite's own complaints.

    `unlogged`: texts that the log does not know. `unwritten`: additions in the log without a text. `unread`:
    the full-text index and the texts differ. `without_vector`: texts that would give a vector and have none.
    `orphans`: vectors of nothing. `wordless`: whole, but nothing in it can be searched for: only a list shows it.
    """

    memories: int
    file: tuple[str, ...]
    unlogged: tuple[int, ...]
    unwritten: tuple[int, ...]
    unread: bool
    without_vector: tuple[int, ...]
    orphans: int
    erasure_owed: bool
    wordless: tuple[int, ...] = ()

    @property
    def healthy(self) -> bool:
        wrong = (self.file, self.unlogged, self.unwritten, self.without_vector)
        return not any(wrong) and not self.unread and not self.orphans and not self.erasure_owed


def examine(store: Store) -> Diagnosis:
    """Read everything once; changes nothing. Takes seconds for a million memories.

    Where the file itself is so damaged that the rest cannot be read, that alone is told. Raises StoreUnusable.
    """
    file = _complaints(store)
    try:
        return _examined(store, file)
    except StoreUnusable:
        if not file:
            raise
        nothing: dict[str, tuple[int, ...]] = {"unlogged": (), "unwritten": (), "without_vector": ()}
        return Diagnosis(memories=0, file=file, unread=False, orphans=0, erasure_owed=False, **nothing)


def _examined(store: Store, file: tuple[str, ...]) -> Diagnosis:
    with store.reading() as connection:
        texts = {num for (num,) in connection.execute("SELECT num FROM memory")}
        known = log.alive(connection)
        owed = scrub.owed(connection)
        bare = texts - _with_vector(connection)
        orphans = _orphans(connection)
        missing = _should_have_vector(connection, store, sorted(bare))
        wordless = _wordless(connection, sorted(bare))
    return Diagnosis(
        memories=len(texts),
        file=file,
        unlogged=tuple(sorted(texts - known)),
        unwritten=tuple(sorted(known - texts)),
        unread=not store.write(_full_text_fits),
        without_vector=tuple(missing),
        orphans=orphans,
        erasure_owed=owed,
        wordless=tuple(wordless),
    )


def _complaints(store: Store) -> tuple[str, ...]:
    with store.reading() as connection:
        try:
            return tuple(text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok")
        except driver_errors() as error:
            # Of some damage SQLite cannot even make a list.
            if not isinstance(error_for(error), StoreUnusable):
                raise
            return (str(error),)


def repair(store: Store) -> Diagnosis:
    """Make log, full-text and vectors again where they differ from the texts, then examine once more.

    Of the file itself only SQLite's own indexes can be made again; where that is not enough, nothing else is done.
    """
    found = examine(store)
    if found.file:
        with suppress(StoreUnusable):
            store.maintain(lambda connection: connection.execute("REINDEX"))
        found = examine(store)
        if found.file:
            return found
    now = store.clock()

    def work(connection: Connection) -> None:
        log.append_many(connection, "add", found.unlogged, now)
        log.rewrite_erased(connection, found.unwritten, now)
        if found.unread:
            rebuild_full_text(connection)
        connection.execute("DELETE FROM vector WHERE (slot & ?) NOT IN (SELECT num FROM memory)", (_MASK,))
        connection.execute(f"DELETE FROM vector WHERE (slot >> {NUM_BITS}) NOT IN (SELECT id FROM embedder)")

    store.write(work)
    own = store.own_embedder()
    for start in range(0, len(found.without_vector), BATCH):
        memories = store.get_many(found.without_vector[start : start + BATCH])
        try:
            halves = map(vector_rows.blob, checked(strict(store.embedder), [memory.text for memory in memories]))
        except EmbedderFault:
            if isinstance(store.embedder, Standby):
                # All else is mended, and the examination tells what still has no vector.
                break
            raise
        made = list(zip((memory.num for memory in memories), halves, strict=True))
        store.write(lambda connection, made=made: vector_rows.put_many(connection, own.id, made))  # type: ignore[misc]
    if not found.healthy:
        index_anew(store)
    if found.erasure_owed:
        store.maintain(scrub.finish)
    return examine(store)


def index_anew(store: Store) -> None:
    """What follows the log begins anew, from the texts and vectors of the file."""
    own = store.own_embedder()
    store.write(lambda connection: log.append(connection, "embedder", own.id, store.clock()))


def rebuild_full_text(connection: Connection) -> None:
    """Make the full-text index anew from the texts."""
    connection.execute("INSERT INTO memory_text (memory_text) VALUES ('rebuild')")


_MASK = (1 << NUM_BITS) - 1


def _full_text_fits(connection: Connection) -> bool:
    try:
        connection.execute("INSERT INTO memory_text (memory_text, rank) VALUES ('integrity-check', 1)")
    except driver_errors():
        return False
    return True


def _with_vector(connection: Connection) -> set[int]:
    """Memories that some embedder in the file has a vector for: while one is filling, the other serves."""
    rows = connection.execute("SELECT DISTINCT slot & ? FROM vector", (_MASK,))
    return {num for (num,) in rows}


def _orphans(connection: Connection) -> int:
    sql = f"""
        SELECT count(*) FROM vector
        WHERE (slot & ?) NOT IN (SELECT num FROM memory) OR (slot >> {NUM_BITS}) NOT IN (SELECT id FROM embedder)
        """
    return int(connection.execute(sql, (_MASK,)).fetchone()[0])


def _should_have_vector(connection: Connection, store: Store, bare: Sequence[int]) -> list[int]:
    """All of them where the embedder is known to fail: whether it would give them one cannot be told."""
    missing = []
    for num in bare:
        (text,) = connection.execute("SELECT text FROM memory WHERE num = ?", (num,)).fetchone()
        if checked(store.embedder, [text]).any():
            missing.append(num)
        elif isinstance(store.embedder, Standby) and store.embedder.problem:
            return list(bare)
    return missing


def _wordless(connection: Connection, bare: Sequence[int]) -> list[int]:
    words, found = Words(), list[int]()
    for start in range(0, len(bare), BATCH):
        nums = bare[start : start + BATCH]
        sql = f"SELECT num, text FROM memory WHERE num IN ({','.join('?' * len(nums))}) ORDER BY num"
        rows = connection.execute(sql, tuple(nums)).fetchall()
        found += [num for (num, _), terms in zip(rows, words.terms(text for _, text in rows), strict=True) if not terms]
    return found
