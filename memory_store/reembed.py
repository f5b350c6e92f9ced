"""Changing the embedder: vectors of the new model are made beside the old ones, then take their place.

A Store that was opened with the new embedder enters; counts leave. Search goes on with both meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_store import log, vector_rows
from memory_store.dbfile import Connection
from memory_store.embed import Embedder, checked
from memory_store.plain_search import PlainVectors
from memory_store.standby import strict
from memory_store.store import Store

BATCH = 256


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` memories have been looked at; when both are equal the new embedder is active."""

    done: int
    total: int


def reembed(store: Store, batch: int = BATCH) -> Iterator[Progress]:
    """Make what is missing, a batch for each step of the iterator, and then drop the other embedders' vectors.

    Stop iterating at any time: the next call goes on. Memories added meanwhile get the new vector when they are added.
    Raises EmbedderFault.
    """
    own = store.own_embedder()
    with store.reading() as connection:
        total, done, after = _count(connection), 0, 0
    while own.state != "active":
        with store.reading() as connection:
            chunk = connection.execute(
                "SELECT num, text FROM memory WHERE num > ? ORDER BY num LIMIT ?", (after, batch)
            ).fetchall()
            have = set(vector_rows.get(connection, own, [num for num, _ in chunk])[0])
        if not chunk:
            store.write(lambda connection: _activate(connection, own.id, store.clock()))
            break
        missing = [(num, text) for num, text in chunk if num not in have]
        halves = map(vector_rows.blob, checked(strict(store.embedder), [text for _, text in missing]))
        made = [(num, row) for (num, _), row in zip(missing, halves, strict=True)]
        store.write(lambda connection, made=made: _put_living(connection, own.id, made))  # type: ignore[misc]
        done, after = done + len(chunk), chunk[-1][0]
        yield Progress(min(done, total), total)
    yield Progress(total, total)


class Elder:
    """Finds by the vectors of the embedder before what has none of the new one yet; nothing once that is active."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store, self._embedder, self._plain = store, embedder, PlainVectors(store)
        self._over = embedder.digest == store.embedder.digest

    def search(self, namespace: str, text: str, k: int) -> dict[int, float]:
        """Cosines by number: of another scale than those of the new embedder, and in about the same order."""
        if self._over:
            return {}
        before = [row for row in self._store.embedders() if row.digest == self._embedder.digest]
        vector = checked(self._embedder, [text])[0]
        self._over = not before
        if self._over or not vector.any():
            return {}
        nums, cosines = self._plain.of(before[0], namespace, vector, k)
        return dict(zip(nums.tolist(), cosines.tolist(), strict=True))


def _put_living(connection: Connection, embedder: int, made: list[tuple[int, bytes | None]]) -> None:
    """A memory that was erased while its vector was made gets none."""
    for num, halves in made:
        if connection.execute("SELECT 1 FROM memory WHERE num = ?", (num,)).fetchone() is not None:
            vector_rows.put(connection, embedder, num, halves)


def _activate(connection: Connection, embedder: int, now: float) -> None:
    connection.execute("UPDATE embedder SET state = 'active' WHERE id = ?", (embedder,))
    low, high = vector_rows.slot(embedder, 0), vector_rows.slot(embedder + 1, 0)
    connection.execute("DELETE FROM vector WHERE slot < ? OR slot >= ?", (low, high))
    connection.execute("DELETE FROM embedder WHERE id <> ?", (embedder,))
    log.append(connection, "embedder", embedder, now)


def _count(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM memory").fetchone()[0])
