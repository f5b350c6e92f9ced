"""Reading and changing rows of the memory on a given connection.

Filters and ids enter, Memory leaves. Every function runs within the caller's transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memory_store import log
from memory_store.dbfile import Connection
from memory_store.embed import Embedder
from memory_store.errors import EmbedderFault, InvalidMemory, NoSuchMemory
from memory_store.intake import ID_BYTES, MOST_TAGS
from memory_store.records import Author, Memory, SourceRecord, State
from memory_store.vector_rows import EmbedderRow

_SELECT = """
    SELECT m.num, m.id, n.name, s.kind, s.name, m.source, m.kind, m.taint, m.state, m.time, m.recorded, m.valid_from,
           m.valid_to, m.digest, m.place, m.episode, m.position, m.tags, m.derived_from, m.text
    FROM memory m JOIN namespace n ON n.id = m.namespace JOIN source s ON s.id = m.source
    """
_PLAIN = Memory.__slots__[4:-3]
_AT_ONCE = 500
_BEGINNING = re.compile(r"[0-9a-f]{6,31}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list or an erasure is about; None is any. `since` <= time < `until`."""

    namespace: str | None = None
    author: Author | None = None
    tag: str | None = None
    since: float | None = None
    until: float | None = None
    state: State | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on `m` with its values; "1" where everything is meant."""
        terms: list[tuple[str, tuple[Any, ...]]] = []
        if self.namespace is not None:
            terms.append(("m.namespace = (SELECT id FROM namespace WHERE name = ?)", (self.namespace,)))
        if self.author is not None:
            condition = "m.source = (SELECT id FROM source WHERE kind = ? AND name = ?)"
            terms.append((condition, (self.author.kind, self.author.name)))
        if self.tag is not None:
            terms.append(("EXISTS (SELECT 1 FROM json_each(m.tags) WHERE value = ?)", (self.tag,)))
        if self.since is not None:
            terms.append(("m.time >= ?", (self.since,)))
        if self.until is not None:
            terms.append(("m.time < ?", (self.until,)))
        if self.state is not None:
            terms.append(("m.state = ?", (self.state,)))
        return " AND ".join(term for term, _ in terms) or "1", [value for _, values in terms for value in values]


def memory_of(row: Sequence[Any]) -> Memory:
    num, memory_id, namespace, author_kind, author_name, *rest, tags, derived_from, text = row
    author = Author(kind=author_kind, name=author_name)
    fields: dict[str, Any] = dict(zip(_PLAIN, rest, strict=True))
    fields["tags"], fields["derived_from"] = _strings(tags), _strings(derived_from)
    return Memory(num=num, id=memory_id, namespace=namespace, author=author, text=text, **fields)


def _strings(text: str) -> tuple[str, ...]:
    # Mostly empty: a search reads dozens of these, and parsing costs more than all else of a row.
    return () if text == "[]" else tuple(json.loads(text))


def one(connection: Connection, memory_id: str) -> Memory:
    """Raises NoSuchMemory."""
    row = connection.execute(_SELECT + "WHERE m.id = ?", (memory_id,)).fetchone()
    if row is None:
        raise _missing(memory_id)
    return memory_of(row)


def many(connection: Connection, nums: Sequence[int]) -> tuple[Memory, ...]:
    """In the order asked, without the ones that are not there."""
    found: dict[int, Memory] = {}
    for start in range(0, len(nums), _AT_ONCE):
        part = nums[start : start + _AT_ONCE]
        marks = ",".join("?" * len(part))
        for row in connection.execute(_SELECT + f"WHERE m.num IN ({marks})", tuple(part)):
            found[row[0]] = memory_of(row)
    return tuple(found[num] for num in nums if num in found)


def with_ids(connection: Connection, ids: Iterable[str]) -> tuple[Memory, ...]:
    """In the order asked, without the ones that are not there."""
    found = (connection.execute("SELECT num FROM memory WHERE id = ?", (each,)).fetchone() for each in ids)
    return many(connection, [row[0] for row in found if row is not None])


def meant(connection: Connection, given: str) -> Memory:
    """The one with this id, or the only one whose id begins so; that goes for ids that the store made.

    Raises NoSuchMemory, InvalidMemory where several begin so.
    """
    if connection.execute("SELECT 1 FROM memory WHERE id = ?", (given,)).fetchone() is None and _BEGINNING(given):
        sql = "SELECT id FROM memory WHERE id > ? AND id < ? AND length(id) = ? LIMIT 2"
        found = connection.execute(sql, (given, given + "g", 2 * ID_BYTES)).fetchall()
        if len(found) > 1:
            raise InvalidMemory(f"several memories begin with {given!r}", "give more of the id")
        given = found[0][0] if found else given
    return one(connection, given)


def select(connection: Connection, chosen: Filter, *, before: int | None, limit: int) -> tuple[Memory, ...]:
    """The last written first, below the number `before`."""
    condition, values = chosen.sql()
    if before is not None:
        condition, values = f"{condition} AND m.num < ?", [*values, before]
    found = connection.execute(f"{_SELECT} WHERE {condition} ORDER BY m.num DESC LIMIT ?", (*values, limit))
    return tuple(map(memory_of, found))


def numbers(connection: Connection, chosen: Filter) -> list[int]:
    condition, values = chosen.sql()
    return [
        num for (num,) in connection.execute(f"SELECT m.num FROM memory m WHERE {condition} ORDER BY m.num", values)
    ]


def numbers_of_ids(connection: Connection, ids: Iterable[str]) -> list[int]:
    """Raises NoSuchMemory at the first id that is not there."""
    return [number(connection, memory_id) for memory_id in ids]


def number(connection: Connection, memory_id: str) -> int:
    """Raises NoSuchMemory."""
    row = connection.execute("SELECT num FROM memory WHERE id = ?", (memory_id,)).fetchone()
    if row is None:
        raise _missing(memory_id)
    return int(row[0])


def episode(connection: Connection, name: str, around: int | None, reach: int) -> tuple[Memory, ...]:
    condition, values = "m.episode = ?", [name, *(() if around is None else (around - reach, around + reach))]
    if around is not None:
        condition += " AND m.position BETWEEN ? AND ?"
    return tuple(map(memory_of, connection.execute(f"{_SELECT} WHERE {condition} ORDER BY m.position, m.num", values)))


def set_state(connection: Connection, memory_id: str, state: State, now: float) -> None:
    num = number(connection, memory_id)
    connection.execute("UPDATE memory SET state = ? WHERE num = ?", (state, num))
    log.append(connection, "state", num, now, state)


def set_states(connection: Connection, nums: Iterable[int], state: State, now: float) -> None:
    """Of those that are still there."""
    for num in nums:
        if connection.execute("UPDATE memory SET state = ? WHERE num = ?", (state, num)).rowcount:
            log.append(connection, "state", num, now, state)


def end_validity(connection: Connection, memory_id: str, moment: float, now: float) -> None:
    memory = one(connection, memory_id)
    if memory.valid_from is not None and moment < memory.valid_from:
        raise InvalidMemory("the validity would end before it begins", "give a later time")
    connection.execute("UPDATE memory SET valid_to = ? WHERE num = ?", (moment, memory.num))
    log.append(connection, "validity", memory.num, now, repr(moment))


def set_tags(connection: Connection, memory_id: str, tags: tuple[str, ...], now: float) -> None:
    num = number(connection, memory_id)
    if any(not tag.strip() or not tag.isprintable() for tag in tags):
        raise InvalidMemory("a tag is empty or has unprintable characters", "use tags that can be shown")
    connection.execute("UPDATE memory SET tags = ? WHERE num = ?", (json.dumps(tags, ensure_ascii=False), num))
    log.append(connection, "tags", num, now)


def add_tags(connection: Connection, memory_id: str, tags: Iterable[str], now: float) -> None:
    """Those that it lacks. Raises InvalidMemory where they are too many."""
    known = one(connection, memory_id).tags
    every = tuple(dict.fromkeys((*known, *tags)))
    if len(every) > MOST_TAGS:
        raise InvalidMemory(f"{len(every)} tags are too many", f"give at most {MOST_TAGS}")
    if every != known:
        set_tags(connection, memory_id, every, now)


def namespaces(connection: Connection) -> dict[str, int]:
    sql = "SELECT n.name, (SELECT count(*) FROM memory m WHERE m.namespace = n.id) FROM namespace n ORDER BY n.name"
    return dict(connection.execute(sql).fetchall())


def sources(connection: Connection) -> tuple[SourceRecord, ...]:
    sql = (
        "SELECT s.id, s.kind, s.name, (SELECT count(*) FROM memory m WHERE m.source = s.id) FROM source s ORDER BY s.id"
    )
    return tuple(
        SourceRecord(id=number_, author=Author(kind=kind, name=name), memories=count)
        for number_, kind, name, count in connection.execute(sql)
    )


def register_embedder(connection: Connection, embedder: Embedder) -> EmbedderRow:
    """Find or make the row of this embedder: active in a file without memories, else filling."""
    sql = "SELECT id, digest, width, state FROM embedder WHERE digest = ?"
    row = connection.execute(sql, (embedder.digest,)).fetchone()
    if row is None:
        empty = connection.execute("SELECT 1 FROM memory LIMIT 1").fetchone() is None
        if empty:
            connection.execute("DELETE FROM embedder")
        values = (embedder.digest, embedder.width, "active" if empty else "filling")
        connection.execute("INSERT INTO embedder (digest, width, state) VALUES (?, ?, ?)", values)
        row = connection.execute(sql, (embedder.digest,)).fetchone()
    elif row[3] == "active" and connection.execute("SELECT count(*) FROM embedder").fetchone()[0] > 1:
        # Another one was in use since: what was added then has no vector of this one.
        fill_again(connection, row[0])
        row = connection.execute(sql, (embedder.digest,)).fetchone()
    found = EmbedderRow(*row)
    if found.width != embedder.width:
        raise EmbedderFault(
            f"the embedder gives {embedder.width} numbers, the file has {found.width} under its digest",
            "its digest must change with its width",
        )
    return found


def fill_again(connection: Connection, embedder: int) -> None:
    """Some memories may have no vector of this embedder: `reembed` looks through all of them."""
    connection.execute("UPDATE embedder SET state = 'filling' WHERE id = ?", (embedder,))


def _missing(memory_id: str) -> NoSuchMemory:
    return NoSuchMemory(
        f"no memory {memory_id!r}", "`localai memory list` shows what there is; it may have been forgotten"
    )
