"""Memories as lines of JSON or as Markdown, and back: whatever goes out comes in the same, with its evidence.

Memories leave as text; text enters as memories. An import is the owner's act, so it passes no write gate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from memory_store import rows
from memory_store.dbfile import Connection
from memory_store.errors import InvalidMemory
from memory_store.records import Added, Author, AuthorKind, Kind, Memory, NewMemory, State, Taint
from memory_store.store import Store
from memory_store.trust import Verdict

FORMAT = "localai-memory"
VERSION = 1
BATCH = 500
_SECTION = re.compile(r"<!-- memory (\{.*?\}) -->\n(`{3,})text\n(.*?)\n\2(?=\n|\Z)", re.DOTALL)
_TICKS = re.compile(r"`{3,}")


# What one judgement may weigh: a person's weighs 3 at most.
_Weight = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of evidence on a memory's author."""

    judge_kind: AuthorKind
    judge: str
    verdict: Verdict
    weight: _Weight
    time: float


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One memory outside of the store."""

    id: str
    text: str
    author_kind: AuthorKind
    author: str
    namespace: str
    kind: Kind
    taint: Taint
    state: State
    time: float
    recorded: float
    valid_from: float | None = None
    valid_to: float | None = None
    digest: str | None = None
    place: str | None = None
    episode: str | None = None
    position: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] | None = None
    tags: tuple[str, ...] = ()
    derived_from: tuple[str, ...] = ()
    evidence: tuple[Judgement, ...] = ()


def records(
    store: Store, *, after: int = 0, limit: int = 1000, namespace: str | None = None
) -> list[tuple[int, Record]]:
    """(num, record) in the order of writing, from behind `after`: pages of one export."""
    with store.reading() as connection:
        sql = (
            "SELECT m.num FROM memory m JOIN namespace n ON n.id = m.namespace "
            "WHERE m.num > ? AND (? IS NULL OR n.name = ?) ORDER BY m.num LIMIT ?"
        )
        nums = [num for (num,) in connection.execute(sql, (after, namespace, namespace, limit))]
        return [(memory.num, _record(connection, memory)) for memory in rows.many(connection, nums)]


def _record(connection: Connection, memory: Memory) -> Record:
    names = set(Record.__struct_fields__) - {"author", "author_kind", "evidence"}
    sql = (
        "SELECT s.kind, s.name, e.verdict, e.weight, e.time FROM evidence e JOIN source s ON s.id = e.judge "
        "WHERE e.num = ? ORDER BY e.id"
    )
    found = tuple(Judgement(*row) for row in connection.execute(sql, (memory.num,)))
    fields = {name: getattr(memory, name) for name in names}
    return Record(author_kind=memory.author.kind, author=memory.author.name, evidence=found, **fields)


def to_jsonl(exported: Iterable[Record]) -> Iterator[str]:
    """Lines with their ends; the first says what this is."""
    yield json.dumps({"format": FORMAT, "version": VERSION}) + "\n"
    for record in exported:
        yield msgspec.json.encode(record).decode() + "\n"


def to_markdown(exported: Iterable[Record]) -> Iterator[str]:
    """A document for people that holds everything; its parts are sections, one for each memory."""
    yield f"# Memories\n\n<!-- {FORMAT} {VERSION} -->\n"
    count = 0
    for record in exported:
        count += 1
        fields = msgspec.to_builtins(record)
        text = fields.pop("text")
        ticks = "`" * max([3, *(len(found) + 1 for found in _TICKS.findall(text))])
        # A comment ends at the first "-->": no such thing may be spelt within.
        shown = json.dumps(fields, ensure_ascii=False).replace(">", "\\u003e")
        yield f"\n## {record.author_kind} {record.author}, {record.namespace}\n\n"
        yield f"<!-- memory {shown} -->\n{ticks}text\n{text}\n{ticks}\n"
    yield f"\n<!-- end of {count} memories -->\n"


def from_jsonl(lines: Iterable[str]) -> Iterator[Record]:
    """Raises InvalidMemory with the number of the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value = _parsed(line, f"line {number}")
        if number == 1 and isinstance(value, dict) and "format" in value:
            if (value["format"], value.get("version")) != (FORMAT, VERSION):
                raise InvalidMemory("this file is of another format or a newer version", "export it again, or update")
            continue
        yield record_of(value, f"line {number}")


def from_markdown(document: str) -> Iterator[Record]:
    """What `to_markdown` wrote. Raises InvalidMemory where it holds no memory, or a damaged one."""
    found = 0
    for match in _SECTION.finditer(document):
        found += 1
        value = _parsed(match[1], f"memory {found}")
        yield record_of({**value, "text": match[3]}, f"memory {found}")
    if not document.rstrip().endswith(f"<!-- end of {found} memories -->"):
        raise InvalidMemory(
            "this Markdown is no whole export of memories", "`localai memory add FILE` remembers a document"
        )


def record_of(value: Any, where: str) -> Record:
    """Raises InvalidMemory."""
    try:
        # Python reads NaN, infinity and halves of characters in JSON, and nobody else does.
        return msgspec.json.decode(json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), type=Record)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidMemory(
            f"{where} is no memory: {error}", "use a file that `localai memory export` wrote"
        ) from error


def bring_in(store: Store, batch: Sequence[Record]) -> int:
    """Store all of these or none; returns how many were new. Raises InvalidMemory, NoSuchMemory, DiskFull, StoreBusy.

    What is known by its id stays as it is.
    """

    def work(connection: Connection, added: Sequence[Added]) -> None:
        for record, done in zip(batch, added, strict=True):
            if done.created:
                _restore(store, connection, record, done.num)

    # In their own order: derived facts rest on verbatim ones, which were written before them.
    added = store.add_many([_new(record) for record in batch], state=[record.state for record in batch], more=work)
    return sum(done.created for done in added)


def _new(record: Record) -> NewMemory:
    names = set(NewMemory.__slots__) - {"author"}
    author = Author(kind=record.author_kind, name=record.author)
    return NewMemory(author=author, **{name: getattr(record, name) for name in names})


def _restore(store: Store, connection: Connection, record: Record, num: int) -> None:
    """What an add decides by itself: when it was written down, and what others have said of it."""
    connection.execute("UPDATE memory SET recorded = ? WHERE num = ?", (record.recorded, num))
    for said in record.evidence:
        judge = store.source_within(connection, Author(kind=said.judge_kind, name=said.judge))
        connection.execute(
            "INSERT OR IGNORE INTO evidence (source, judge, num, verdict, weight, time) "
            "SELECT source, ?, num, ?, ?, ? FROM memory WHERE num = ?",
            (judge, said.verdict, said.weight, said.time, num),
        )


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidMemory(f"{where} is no JSON", "use a file that `localai memory export` wrote") from error
