"""The statements of an add, on the writer's connection; what it has learnt about names is forgotten at a rollback.

Prepared memories enter, an Added for each leaves. It runs within somebody else's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from memory_store import log, vector_rows
from memory_store.dbfile import Connection
from memory_store.errors import InvalidMemory, NoSuchMemory
from memory_store.intake import Prepared
from memory_store.records import Added, Author, State

_COLUMNS = (
    "id, namespace, source, kind, taint, state, fingerprint, time, recorded, valid_from, valid_to, digest, "
    "place, episode, position, tags, derived_from, text"
)
_INSERT = f"INSERT INTO memory ({_COLUMNS}) VALUES ({','.join('?' * 18)}) ON CONFLICT (id) DO NOTHING"
_ECHO = "SELECT id, num, state FROM memory WHERE fingerprint = ? AND namespace = ? AND kind = 'derived'"
_FULL_TEXT = "INSERT INTO memory_text (rowid, text) SELECT num, text FROM memory WHERE num BETWEEN ? AND ? ORDER BY num"


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes one memory; `vector` as `vector_rows.blob` gives it."""

    item: Prepared
    vector: bytes | None
    state: State
    recorded: float


class Writing:
    """Namespace and source numbers by name, so that an add looks them up once."""

    def __init__(self) -> None:
        self._namespaces: dict[str, int] = {}
        self._sources: dict[Author, int] = {}

    def forget(self) -> None:
        self._namespaces.clear()
        self._sources.clear()

    def add(self, connection: Connection, rows: Sequence[Row], embedder: int) -> list[Added]:
        """An outcome for each. Raises InvalidMemory where an id holds another text, NoSuchMemory where a derived fact
        rests on nothing."""
        added = [self._memory(connection, row) for row in rows]
        fresh = [one.num for one in added if one.created]
        if fresh:
            # Numbers rise by one, and nobody else writes: between the first and the last there are no others.
            span = (min(fresh), max(fresh))
            connection.execute(_FULL_TEXT, span)
            pairs = zip(added, rows, strict=True)
            vector_rows.put_many(connection, embedder, ((one.num, row.vector) for one, row in pairs if one.created))
            log.append_adds(connection, *span)
        return added

    def _memory(self, connection: Connection, row: Row) -> Added:
        item, new = row.item, row.item.new
        namespace = self._namespace(connection, new.namespace)
        source = self.source(connection, new.author, row.recorded)
        if new.kind == "derived":
            _check_ground(connection, new.derived_from)
        elif item.taint != "own":
            echo = connection.execute(_ECHO, (item.fingerprint, namespace)).fetchone()
            # An agent that repeats a derived fact adds nothing: kept as verbatim text it would feed on itself.
            if echo is not None:
                return Added(id=echo[0], num=echo[1], created=False, state=echo[2])
        said = (item.id, namespace, source, new.kind, item.taint, row.state, item.fingerprint, item.time, row.recorded)
        stands = (new.valid_from, new.valid_to, new.digest, new.place, new.episode, new.position)
        done = connection.execute(_INSERT, (*said, *stands, item.tags, item.derived_from, new.text))
        if done.rowcount == 0:
            return _known(connection, item)
        return Added(id=item.id, num=cast(int, done.lastrowid), created=True, state=row.state)

    def source(self, connection: Connection, author: Author, now: float) -> int:
        """Raises InvalidMemory for a name that cannot be shown."""
        if author not in self._sources:
            if not author.name.strip() or not author.name.isprintable():
                raise InvalidMemory("the author's name is empty or unprintable", "use a name that can be shown")
            key = (author.kind, author.name)
            connection.execute("INSERT OR IGNORE INTO source (kind, name, first) VALUES (?, ?, ?)", (*key, now))
            found = connection.execute("SELECT id FROM source WHERE kind = ? AND name = ?", key).fetchone()
            self._sources[author] = found[0]
        return self._sources[author]

    def _namespace(self, connection: Connection, name: str) -> int:
        if name not in self._namespaces:
            connection.execute("INSERT OR IGNORE INTO namespace (name) VALUES (?)", (name,))
            found = connection.execute("SELECT id FROM namespace WHERE name = ?", (name,)).fetchone()
            self._namespaces[name] = found[0]
        return self._namespaces[name]


def _known(connection: Connection, item: Prepared) -> Added:
    num, state, text = connection.execute("SELECT num, state, text FROM memory WHERE id = ?", (item.id,)).fetchone()
    if text != item.new.text:
        raise InvalidMemory(
            f"the id {item.id!r} already holds another text", "leave the id out, or forget the old memory"
        )
    return Added(id=item.id, num=num, created=False, state=state)


def _check_ground(connection: Connection, ids: tuple[str, ...]) -> None:
    for ground in ids:
        found = connection.execute("SELECT kind FROM memory WHERE id = ?", (ground,)).fetchone()
        if found is None:
            raise NoSuchMemory(f"no memory {ground!r} to derive from", "store the verbatim text first")
        if found[0] == "derived":
            raise InvalidMemory("a derived fact cannot rest on another derived fact", "name the verbatim memories")
