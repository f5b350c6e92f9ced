"""The durable vectors: one float16 row per memory and embedder, in the same file as the text.

float32 rows enter, float16 arrays leave. An index is derived from these; it knows nothing of how one searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory_store.dbfile import Connection
from memory_store.embed import Vectors
from memory_store.errors import StoreUnusable

Halves = npt.NDArray[np.float16]

NUM_BITS = 40
_INSERT = "INSERT OR REPLACE INTO vector (slot, halves) VALUES (?, ?)"
# One row for all of them: each row is a moment in which another thread may take Python's lock, for milliseconds.
_PACKED = (
    "SELECT group_concat(slot), CAST(group_concat(halves, '') AS BLOB) "
    "FROM (SELECT slot, halves FROM vector WHERE slot IN ({}) ORDER BY slot)"
)
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class EmbedderRow:
    """A model whose vectors are in the file. "active": all memories have one; "filling": still being made."""

    id: int
    digest: str
    width: int
    state: str


def slot(embedder: int, num: int) -> int:
    return embedder << NUM_BITS | num


def embedders(connection: Connection) -> tuple[EmbedderRow, ...]:
    rows = connection.execute("SELECT id, digest, width, state FROM embedder ORDER BY id")
    return tuple(EmbedderRow(*row) for row in rows)


def blob(row: Vectors) -> bytes | None:
    """None for a zero row: such a text has no vector, and is found by its words alone."""
    return row.astype("<f2").tobytes() if row.any() else None


def put(connection: Connection, embedder: int, num: int, halves: bytes | None) -> None:
    if halves is not None:
        connection.execute(_INSERT, (slot(embedder, num), halves))


def put_many(connection: Connection, embedder: int, rows: Iterable[tuple[int, bytes | None]]) -> None:
    connection.executemany(_INSERT, ((slot(embedder, num), halves) for num, halves in rows if halves is not None))


def get(connection: Connection, embedder: EmbedderRow, nums: Sequence[int]) -> tuple[list[int], Halves]:
    """The numbers that have a vector, in rising order, and their (n, width) rows."""
    slots, packed = list[str](), list[bytes]()
    ordered = sorted(nums)
    for start in range(0, len(ordered), _AT_ONCE):
        part = [slot(embedder.id, num) for num in ordered[start : start + _AT_ONCE]]
        found, halves = connection.execute(_PACKED.format(",".join("?" * len(part))), part).fetchone()
        if found is not None:
            slots += found.split(",")
            packed.append(halves)
    return _stack(list(map(int, slots)), b"".join(packed), embedder)


def scan(
    connection: Connection, embedder: EmbedderRow, after: int = 0, batch: int = 8192
) -> Iterator[tuple[list[int], Halves]]:
    """All rows of one embedder with num > `after`, in rising order, `batch` at a time."""
    last, end = slot(embedder.id, after), slot(embedder.id + 1, 0)
    while True:
        sql = "SELECT slot, halves FROM vector WHERE slot > ? AND slot < ? ORDER BY slot LIMIT ?"
        rows = connection.execute(sql, (last, end, batch)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield _stack([number for number, _ in rows], b"".join(halves for _, halves in rows), embedder)


def _stack(slots: Sequence[int], packed: bytes, embedder: EmbedderRow) -> tuple[list[int], Halves]:
    nums = [number & ((1 << NUM_BITS) - 1) for number in slots]
    if len(packed) != 2 * embedder.width * len(nums):
        raise StoreUnusable(
            "stored vectors have another width than their embedder", "run `localai memory doctor --repair`"
        )
    return nums, np.frombuffer(packed, "<f2").reshape(len(nums), embedder.width)
