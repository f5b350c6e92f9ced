"""Which memories each earlier question was given, so that a chat begins the same after a restart of the daemon.

Keys of questions and what was shown enter and leave. It holds no text: notes are written anew from the memory, so what
was forgotten there is in no prompt any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from sqlite_utils import Database

from localai.sqlite_file import Step, open_file, translated

MOST = 4096
"""Questions kept; the oldest go first."""
_NAME = "recalled notes"


@dataclass(frozen=True, slots=True)
class Shown:
    """One memory as it was shown: its trust and state may change later, and the note must not.

    `spans`: the characters that were shown, each from the first to before the second; () is the whole text.
    """

    id: str
    trust: float
    state: str
    spans: tuple[tuple[int, int], ...] = ()


class FrozenNotes:
    """One file, opened at its first use. Every method blocks and raises LocalaiError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._db: Database | None = None

    def put(self, key: bytes, shown: Sequence[Shown]) -> None:
        """What this question was given; where nothing, it is as if it was never asked."""
        with self._lock, translated(_NAME):
            db = self._opened()
            with db.atomic():
                db.execute("DELETE FROM note WHERE key = ?", [key])
                rows = [(key, place, n.id, n.trust, n.state, _packed(n.spans)) for place, n in enumerate(shown)]
                db.conn.executemany(_INSERT, rows)
                db.execute(_TRIM, [MOST])

    def of(self, keys: Sequence[bytes]) -> dict[bytes, list[Shown]]:
        """What the questions among `keys` were given, in the order of then."""
        with self._lock, translated(_NAME):
            found: dict[bytes, list[Shown]] = {}
            db = self._opened()
            for key in keys:
                rows = db.execute("SELECT memory, trust, state, spans FROM note WHERE key = ? ORDER BY place", [key])
                notes = [Shown(memory, trust, state, _unpacked(spans)) for memory, trust, state, spans in rows]
                if notes:
                    found[key] = notes
            return found

    def drop(self, ids: Iterable[str]) -> None:
        """Forget that these memories were ever shown."""
        with self._lock, translated(_NAME):
            db = self._opened()
            with db.atomic():
                db.conn.executemany("DELETE FROM note WHERE memory = ?", [(each,) for each in ids])

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _opened(self) -> Database:
        if self._db is None:
            self._db = open_file(self._path, _NAME, _STEPS)
        return self._db


def _packed(spans: Sequence[tuple[int, int]]) -> str:
    return " ".join(f"{first}-{last}" for first, last in spans)


def _unpacked(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (each.split("-") for each in text.split())
    return tuple((int(first), int(last)) for first, last in pairs)


_INSERT = "INSERT INTO note (key, place, memory, trust, state, spans) VALUES (?, ?, ?, ?, ?, ?)"
_TRIM = """
DELETE FROM note WHERE key IN (
    SELECT key FROM note GROUP BY key ORDER BY max(number) DESC LIMIT -1 OFFSET ?
)
"""


def _first(db: Database) -> None:
    db.execute(
        "CREATE TABLE note (number INTEGER PRIMARY KEY, key BLOB NOT NULL, place INTEGER NOT NULL,"
        " memory TEXT NOT NULL, trust REAL NOT NULL, state TEXT NOT NULL)"
    )
    db.execute("CREATE INDEX note_key ON note (key, place)")
    db.execute("CREATE INDEX note_memory ON note (memory)")


def _second(db: Database) -> None:
    db.execute("ALTER TABLE note ADD COLUMN spans TEXT NOT NULL DEFAULT ''")


_STEPS: tuple[Step, ...] = (_first, _second)
