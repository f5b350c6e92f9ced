"""The memory as one SQLite file: add, read, change, follow.

NewMemory enters, Memory leaves. Text, vector, full-text and log rows of an add are one transaction, on
disk when the call returns. It knows nothing of search, trust or erasure: these work on it from their own modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Lock, local
from typing import TypeVar

from memory_store import log, rows, scrub, vector_rows
from memory_store.cipher import Key
from memory_store.commit import Followed, Follower, GroupCommit, Work
from memory_store.courtesy import STEP_ROWS, Courtesy
from memory_store.dbfile import Connection, DatabaseFile, translated
from memory_store.embed import Embedder, StaticEmbedder, checked
from memory_store.errors import DiskFull, InvalidMemory, NoSuchMemory, StoreBusy
from memory_store.intake import prepare
from memory_store.log_room import LogRoom
from memory_store.records import Added, Author, Change, Memory, NewMemory, SourceRecord, State
from memory_store.standby import Standby
from memory_store.vector_rows import EmbedderRow
from memory_store.writing import Row, Writing

T = TypeVar("T")
MOST_LISTED = 1000
# Within the transaction that adds them.
_More = Callable[[Connection, Sequence[Added]], None]


@dataclass(frozen=True, slots=True)
class _Adds:
    """Of one call. More than `STEP_ROWS` rows have their vectors already, made by `embedder`."""

    rows: Sequence[Row]
    more: _More
    embedder: Embedder | None = None

    @property
    def few(self) -> Sequence[Row]:
        """The rows, where they are few enough to be embedded with those of others."""
        return self.rows if len(self.rows) <= STEP_ROWS else ()


class Store:
    """One open file. Usable from any thread; writers share commits, readers never wait for writers.

    `written`: the last entry of the log by this program, or one before it.
    """

    def __init__(
        self,
        path: Path,
        *,
        embedder: Embedder | None = None,
        key: Key | None = None,
        clock: Callable[[], float] = time.time,
        busy_seconds: float = 5.0,
    ) -> None:
        """Open or create the file; `embedder` None takes the table that ships with the package.

        An embedder that the file does not know becomes active in an empty file; elsewhere its vectors are made by
        `reembed` while the old ones stay. Raises StoreUnusable, StoreTooNew, StoreLocked, StoreBusy.
        """
        self.path = path
        self.clock = clock
        self.embedder: Embedder = StaticEmbedder() if embedder is None else embedder
        self.encrypted = key is not None
        self.courtesy = Courtesy()
        self._file = DatabaseFile(path, key, busy_seconds)
        self._file.create()
        self._idle: list[Connection] = []
        self._mine = local()
        self._idle_lock = Lock()
        self._closed = False
        self._followers: tuple[Follower, ...] = ()
        self._followed = Followed()
        self._writer = self._file.connect()
        with suppress(StoreBusy, DiskFull), translated():
            if scrub.owed(self._writer):
                scrub.finish(self._writer)
        self._rows = Writing()
        self.written = 0
        self._room = LogRoom(path)
        self._commits = GroupCommit(self._writer, begun=self._room.keep, stamp=self._stamp, forget=self._forget)
        with translated():
            self._salt: bytes = self._writer.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0]
        self._adding = Work(self._add_all, self._ready)
        self._own = self.write(lambda connection: rows.register_embedder(connection, self.embedder))

    @property
    def salt(self) -> bytes:
        """Random bytes of this file: what is hashed with them can be compared nowhere else."""
        return self._salt

    def close(self) -> None:
        """Close all connections. Nothing may be running."""
        with self._idle_lock:
            self._closed = True
            connections, self._idle = [*self._idle, self._writer], []
        for connection in connections:
            connection.close()

    def add(self, new: NewMemory, *, state: State = "kept") -> Added:
        """Store one memory. Raises InvalidMemory, DiskFull, StoreBusy; then nothing is stored."""
        return self.add_many((new,), state=state)[0]

    def add_many(
        self,
        batch: Sequence[NewMemory],
        *,
        state: State | Sequence[State] = "kept",
        more: _More = lambda connection, added: None,
    ) -> tuple[Added, ...]:
        """Store all in one transaction, or none. A memory that is known by its id is left as it is.

        `state` of all, or of each; `more` runs in the same transaction. Raises as `add` does. InvalidMemory where a
        given id already holds another text.
        """
        states = [state] * len(batch) if isinstance(state, str) else state
        now = self.clock()
        pairs = zip(batch, states, strict=True)
        rows_ = [Row(prepare(new, salt=self._salt, now=now), None, each, now) for new, each in pairs]
        adds = _Adds(rows_, more)
        if not adds.few:
            embedder = self.embedder
            adds = replace(adds, rows=self._embedded(rows_, embedder), embedder=embedder)
        added, seq = self._commits.run(self._adding, adds)
        self._followed.pass_on(self._followers, seq)
        return added

    def adopt(self, embedder: Embedder) -> None:
        """Go on with this embedder instead; `reembed` makes its vectors. Raises StoreBusy, DiskFull, EmbedderFault."""

        def taken(connection: Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                own = rows.register_embedder(connection, embedder)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            self.embedder, self._own = embedder, own

        self._commits.alone(taken)

    def _embedded(self, rows_: Sequence[Row], embedder: Embedder) -> list[Row]:
        found = list[Row]()
        for start in range(0, len(rows_), STEP_ROWS):
            self.courtesy.give_way()
            some = rows_[start : start + STEP_ROWS]
            vectors = checked(embedder, [row.item.new.text for row in some])
            found += [replace(row, vector=vector_rows.blob(one)) for row, one in zip(some, vectors, strict=True)]
        return found

    def _ready(self, adds: Sequence[_Adds]) -> Sequence[_Adds]:
        """Of all who add at the same time, the few rows of each embedded together."""
        embedder = self.embedder
        some = iter(self._embedded([row for one in adds for row in one.few], embedder))
        ready = [replace(one, rows=list(islice(some, len(one.few))) or one.rows) for one in adds]
        # Another one may have been adopted since the vectors of many were made.
        late = [one.embedder not in (None, embedder) for one in ready]
        return [
            replace(one, rows=self._embedded(one.rows, embedder)) if is_late else one
            for one, is_late in zip(ready, late, strict=True)
        ]

    def _stamp(self, connection: Connection) -> int:
        # Before the commit: no search sees entries of this program beyond that.
        self.written = log.last_seq(connection)
        return self.written

    def _forget(self) -> None:
        self._rows.forget()
        self.written = 0

    def _add_all(self, connection: Connection, adds: Sequence[_Adds]) -> Sequence[tuple[Added, ...]]:
        """A few statements for all of their rows."""
        every = [row for one in adds for row in one.rows]
        added = iter(self._rows.add(connection, every, self._own.id))
        if isinstance(self.embedder, Standby) and self.embedder.behind and any(row.vector is None for row in every):
            rows.fill_again(connection, self._own.id)
        outcomes = [tuple(islice(added, len(one.rows))) for one in adds]
        for one, outcome in zip(adds, outcomes, strict=True):
            one.more(connection, outcome)
        return outcomes

    def get(self, memory_id: str) -> Memory:
        """Raises NoSuchMemory."""
        with self.reading() as connection:
            return rows.one(connection, memory_id)

    def get_many(self, nums: Sequence[int]) -> tuple[Memory, ...]:
        """By number, in the order asked; what was erased meanwhile is left out."""
        with self.reading() as connection:
            return rows.many(connection, nums)

    def list(
        self,
        *,
        namespace: str | None = None,
        author: Author | None = None,
        tag: str | None = None,
        since: float | None = None,
        until: float | None = None,
        state: State | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[Memory, ...]:
        """The last written first. `since` <= time < `until`; `before` is the num where the previous page ended."""
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidMemory(f"a limit of {limit} cannot be shown", f"give 1 to {MOST_LISTED}")
        chosen = rows.Filter(namespace=namespace, author=author, tag=tag, since=since, until=until, state=state)
        with self.reading() as connection:
            return rows.select(connection, chosen, before=before, limit=limit)

    def episode(self, episode: str, *, around: int | None = None, reach: int = 1) -> tuple[Memory, ...]:
        """The turns or chunks of one episode in order; `around` a position, only its neighbours up to `reach` away."""
        with self.reading() as connection:
            return rows.episode(connection, episode, around, reach)

    def set_state(self, memory_id: str, state: State) -> None:
        """Raises NoSuchMemory. Only "kept" memories are recalled without a note."""
        self.write(lambda connection: rows.set_state(connection, memory_id, state, self.clock()))

    def end_validity(self, memory_id: str, at: float | None = None) -> None:
        """From `at` (None: now) on, the memory is no longer true; it stays findable for the time before."""
        moment = self.clock() if at is None else at
        self.write(lambda connection: rows.end_validity(connection, memory_id, moment, self.clock()))

    def set_tags(self, memory_id: str, tags: Sequence[str]) -> None:
        """Replace the tags. Raises NoSuchMemory, InvalidMemory."""
        self.write(lambda connection: rows.set_tags(connection, memory_id, tuple(tags), self.clock()))

    def changes(self, after: int = 0, limit: int = 1000) -> tuple[Change, ...]:
        """What happened since `after`, oldest first: how derived indexes follow."""
        with self.reading() as connection:
            return log.changes(connection, after, limit)

    def namespaces(self) -> dict[str, int]:
        """Every namespace with its number of memories."""
        with self.reading() as connection:
            return rows.namespaces(connection)

    def sources(self) -> tuple[SourceRecord, ...]:
        """Everyone who has written here, in order of arrival."""
        with self.reading() as connection:
            return rows.sources(connection)

    def source(self, author: Author) -> int:
        """The number of an author; it gets one at first sight. Raises InvalidMemory for a name that cannot be shown."""
        return self.write(lambda connection: self.source_within(connection, author))

    def embedders(self) -> tuple[EmbedderRow, ...]:
        with self.reading() as connection:
            return vector_rows.embedders(connection)

    def own_embedder(self) -> EmbedderRow:
        """The row of the embedder that this Store was opened with, as it stands now."""
        found = [row for row in self.embedders() if row.id == self._own.id]
        if not found:
            raise NoSuchMemory("another program has dropped this embedder's vectors", "open the store again")
        return found[0]

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only connection in one snapshot: whatever is read within sees the same state of the file."""
        pinned: Connection | None = getattr(self._mine, "pinned", None)
        if pinned is not None:
            with translated():
                yield pinned
            return
        connection = self._take()
        try:
            with translated():
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
        finally:
            self._give(connection)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a search, which writes nothing: writers give way, and this thread reads all in one snapshot."""
        if getattr(self._mine, "pinned", None) is not None:
            yield
            return
        with self.courtesy.asking(), self.reading() as connection:
            self._mine.pinned = connection
            try:
                yield
            finally:
                self._mine.pinned = None

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction shared with other writers; it may run twice. Durable when this returns."""
        result, _ = self._commits.run(_EACH, work)
        self._followed.pass_on(self._followers, None)
        return result  # type: ignore[return-value]

    def follow(self, follower: Follower) -> None:
        """Call it after every write, in the writer's thread, with the last `seq` of the log, or None.

        After an add it may leave a few entries of the log to the next search; with None it takes in all there is.
        """
        self._followers = (*self._followers, follower)

    def unfollow(self, follower: Follower) -> None:
        self._followers = tuple(known for known in self._followers if known != follower)

    def maintain(self, work: Callable[[Connection], T]) -> T:
        """Run `work` outside of transactions while no other writer writes: checkpoints, VACUUM."""
        return self._commits.alone(work)

    def source_within(self, connection: Connection, author: Author) -> int:
        """Within a `write`: the number of an author, as `source` gives it."""
        return self._rows.source(connection, author, self.clock())

    def forget_names(self) -> None:
        """Within a `write` that deletes authors or namespaces: their numbers are looked up again."""
        self._rows.forget()

    def _take(self) -> Connection:
        with self._idle_lock:
            if self._idle:
                return self._idle.pop()
        return self._file.connect(read_only=True)

    def _give(self, connection: Connection) -> None:
        with self._idle_lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def _each(connection: Connection, works: Sequence[Callable[[Connection], object]]) -> Sequence[object]:
    return [work(connection) for work in works]


_EACH = Work(_each)
