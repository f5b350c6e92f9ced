"""The learned ranking in the file: its events and its model as rows, read and written on a given connection.

Rows of features enter, factors for scores leave. Knows nothing of search; `preference` does the arithmetic.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict
from threading import Lock

import msgspec
import numpy as np

from memory_store import features
from memory_store.dbfile import Connection
from memory_store.features import Candidate, Row
from memory_store.preference import Event, Model, Report

MOST_EVENTS = 1000
"""The newest so many events are learned from: taste changes, and time to learn stays short."""
_KEY = struct.Struct("<Bq")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    slope: float
    weights: list[float]
    means: list[float]
    scales: list[float]
    habits: list[tuple[int, int, float]]
    report: dict[str, float]


class Learned:
    """The ranking that is in use, as recall asks for it; reads the file again only where there is a newer one."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._lock = Lock()
        self._version = -1
        self._model: Model | None = None

    def factors(self, connection: Connection, question: str, hits: Sequence[Candidate]) -> list[float]:
        """What each hit's score is multiplied by; all 1 where nothing is in use."""
        model = self.model(connection)
        if model is None or not hits:
            return [1.0] * len(hits)
        return list(map(float, model.factors(features.rows(question, hits, self._salt))))

    def model(self, connection: Connection) -> Model | None:
        row = connection.execute("SELECT version, used FROM ranker ORDER BY version DESC LIMIT 1").fetchone()
        version, used = row or (0, 0)
        with self._lock:
            if version != self._version:
                self._model = _read(connection, version) if used else None
                self._version = version
            return self._model


def version(connection: Connection) -> int:
    """Of what ranks now; 0 where nothing was learned."""
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM ranker").fetchone()[0])


def state(connection: Connection) -> dict[str, object]:
    """How many events there are, and what the last learning came to."""
    events = int(connection.execute("SELECT count(*) FROM feedback").fetchone()[0])
    row = connection.execute("SELECT version, used, body FROM ranker ORDER BY version DESC LIMIT 1").fetchone()
    report = msgspec.json.decode(row[2], type=_Body).report if row else None
    return {"events": events, "version": row[0] if row else 0, "used": bool(row and row[1]), "report": report}


def erase(connection: Connection, nums: Sequence[int]) -> int:
    """Within an erasure: these memories are in no event any more, and what was learned from them is gone.

    Returns the number of rows. The rest is learned anew with the next feedback.
    """
    gone = sum(connection.execute("DELETE FROM feedback_hit WHERE num = ?", (num,)).rowcount for num in nums)
    if gone:
        connection.execute("DELETE FROM ranker")
        connection.execute("DELETE FROM feedback WHERE id NOT IN (SELECT event FROM feedback_hit WHERE kept)")
        connection.execute("DELETE FROM feedback_hit WHERE event NOT IN (SELECT id FROM feedback)")
    return gone


def insert(
    connection: Connection, how: str, now: float, nums: Sequence[int], rows: Sequence[Row], flags: Sequence[bool]
) -> int:
    """Add one event, in the order shown; returns how many there are."""
    sql = "INSERT INTO feedback (time, how, version) VALUES (?, ?, ?)"
    event = connection.execute(sql, (now, how, features.VERSION)).lastrowid
    connection.executemany(
        "INSERT INTO feedback_hit (event, place, num, kept, bounded, dense, keys) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (event, place, num, kept, row.bounded, _dense(row), b"".join(_KEY.pack(*key) for key in row.keys))
            for place, (num, row, kept) in enumerate(zip(nums, rows, flags, strict=True))
        ],
    )
    return int(connection.execute("SELECT count(*) FROM feedback").fetchone()[0])


def _dense(row: Row) -> bytes:
    return np.array([row.score, *row.dense], "<f8").tobytes()


def events(connection: Connection) -> list[Event]:
    """The newest events, oldest first."""
    sql = (
        "SELECT event, kept, bounded, dense, keys FROM feedback_hit WHERE event IN "
        "(SELECT id FROM feedback WHERE version = ? ORDER BY id DESC LIMIT ?) ORDER BY event, place"
    )
    found: dict[int, list[tuple[Row, bool]]] = {}
    for event, kept, bounded, dense, keys in connection.execute(sql, (features.VERSION, MOST_EVENTS)):
        score, *numbers = np.frombuffer(dense, "<f8").tolist()
        row = Row(score=score, dense=tuple(numbers), keys=tuple(_KEY.iter_unpack(keys)), bounded=bool(bounded))
        found.setdefault(event, []).append((row, bool(kept)))
    return [Event(tuple(row for row, _ in rows), tuple(kept for _, kept in rows)) for rows in found.values()]


def save(connection: Connection, model: Model, report: Report, now: float) -> None:
    """Keep this model alone; it ranks where its report says that it is worth it."""
    body = _Body(
        slope=model.slope,
        weights=list(model.weights),
        means=list(model.means),
        scales=list(model.scales),
        habits=[(habit, key, odds) for (habit, key), odds in model.habits.items()],
        report=asdict(report),
    )
    sql = "INSERT INTO ranker (time, used, features, body) VALUES (?, ?, ?, ?)"
    connection.execute(sql, (now, report.worth, features.VERSION, msgspec.json.encode(body)))
    connection.execute("DELETE FROM ranker WHERE version < (SELECT max(version) FROM ranker)")


def _read(connection: Connection, version: int) -> Model | None:
    sql = "SELECT body FROM ranker WHERE version = ? AND features = ?"
    row = connection.execute(sql, (version, features.VERSION)).fetchone()
    if row is None:
        return None
    body = msgspec.json.decode(row[0], type=_Body)
    return Model(
        slope=body.slope,
        weights=tuple(body.weights),
        means=tuple(body.means),
        scales=tuple(body.scales),
        habits={(habit, key): odds for habit, key, odds in body.habits},
    )
