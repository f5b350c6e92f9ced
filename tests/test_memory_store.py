"""The store: what goes in comes out, in one transaction, whatever the text, the clock, the disk and neighbours do."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_store.doctor import examine
from memory_store.embed import StaticEmbedder
from memory_store.errors import (
    DiskFull,
    InvalidMemory,
    MemoryStoreError,
    NoSuchMemory,
    StoreBusy,
    StoreLocked,
    StoreTooNew,
    StoreUnusable,
)
from memory_store.log_room import STEP_BYTES, LogRoom
from memory_store.records import Author, NewMemory
from memory_store.store import Store

EMBEDDER = StaticEmbedder()
SCRIBE = Author(kind="agent", name="scribe")
WEB = Author(kind="web", name="https://example.org/page")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db", embedder=EMBEDDER, busy_seconds=0.2)
    yield opened
    opened.close()


def count(store: Store, sql: str) -> int:
    with store.reading() as connection:
        return int(connection.execute(sql).fetchone()[0])


def test_a_memory_comes_back_as_it_was(store: Store) -> None:
    new = NewMemory(
        text="Grüße: the  kettle\nis in 東京 🫖",
        author=Author(kind="file", name="notes/kitchen.md"),
        namespace="home",
        time=12.5,
        valid_from=1.0,
        valid_to=2.0,
        digest="ab" * 32,
        place="# Kitchen",
        episode="notes/kitchen.md",
        position=3,
        tags=("tea", "größe"),
    )
    added = store.add(new)
    memory = store.get(added.id)
    for name in ("text", "author", "namespace", "time", "valid_from", "digest", "place", "episode", "position", "tags"):
        assert getattr(memory, name) == getattr(new, name)
    assert (memory.taint, memory.state, memory.kind, added.created) == ("file", "kept", "verbatim", True)


def test_one_add_writes_every_table(store: Store) -> None:
    added = store.add(NewMemory(text="The kettle whistles"))
    assert count(store, "SELECT count(*) FROM memory_text WHERE memory_text MATCH 'kettles'") == 1
    assert count(store, "SELECT count(*) FROM vector") == 1
    assert [(change.op, change.num) for change in store.changes()] == [("add", added.num)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (NewMemory(text="a b"), NewMemory(text="a b"), True),
        (NewMemory(text="a b"), NewMemory(text="a b", author=SCRIBE), False),
        (NewMemory(text="a b"), NewMemory(text="a b", namespace="other"), False),
        (NewMemory(text="a b", position=1, episode="e"), NewMemory(text="a b", position=2, episode="e"), False),
        (NewMemory(text="a b", id="x"), NewMemory(text="a b", id="x", author=SCRIBE), True),
    ],
    ids=["again", "other author", "other namespace", "other turn", "given id"],
)
def test_ids_are_idempotent(store: Store, first: NewMemory, second: NewMemory, same: bool) -> None:
    one, two = store.add(first), store.add(second)
    assert (one.num == two.num) is same
    assert two.created is not same


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (NewMemory(text=""), "empty"),
        (NewMemory(text=" \n\t"), "empty"),
        (NewMemory(text="x" * 10_000_000), "10,000,000 bytes"),
        (NewMemory(text="a\0b"), "NUL"),
        (NewMemory(text="a\ud800b"), "surrogate at character 1"),
        (NewMemory(text="a", namespace=" "), "namespace"),
        (NewMemory(text="a", tags=("x\ud800",)), "tag"),
        (NewMemory(text="a", author=Author(kind="agent", name="a\u200bb")), "author"),
        (NewMemory(text="a", time=float("nan")), "finite"),
        (NewMemory(text="a", valid_from=2.0, valid_to=1.0), "before"),
        (NewMemory(text="a", kind="derived"), "derived"),
        (NewMemory(text="a", derived_from=("x",)), "derived"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_refused_whole(store: Store, new: NewMemory, words: str) -> None:
    with pytest.raises(InvalidMemory, match=words) as refused:
        store.add_many((NewMemory(text="good"), new))
    assert refused.value.hint
    assert count(store, "SELECT count(*) FROM memory") == 0


def test_a_given_id_never_changes_its_text(store: Store) -> None:
    store.add(NewMemory(text="one", id="x"))
    with pytest.raises(InvalidMemory, match="another text"):
        store.add(NewMemory(text="two", id="x"))
    assert store.get("x").text == "one"


@pytest.mark.parametrize(
    ("author", "asked", "taint"),
    [(None, None, "own"), (None, "web", "web"), (WEB, None, "web"), (WEB, "own", "web"), (SCRIBE, "own", "model")],
    ids=["owner", "owner pastes a page", "page", "page claims", "agent claims"],
)
def test_taint_is_never_better_than_the_author(store: Store, author: Author | None, asked: str, taint: str) -> None:
    new = NewMemory(text="a", taint=asked, **({} if author is None else {"author": author}))  # type: ignore[arg-type]
    assert store.get(store.add(new).id).taint == taint


def test_derived_facts_are_labelled_and_never_ingested_again(store: Store) -> None:
    said = store.add(NewMemory(text="We met Ana on Monday and Tuesday"))
    fact = NewMemory(text="Ana comes often", kind="derived", derived_from=(said.id,), author=SCRIBE)
    derived = store.add(fact)
    echo = store.add(NewMemory(text="ana  comes OFTEN", author=SCRIBE))
    assert (echo.created, echo.num) == (False, derived.num)
    assert store.add(NewMemory(text="Ana comes often")).created, "the owner may say it"
    with pytest.raises(InvalidMemory, match="another derived"):
        store.add(NewMemory(text="Ana is a friend", kind="derived", derived_from=(derived.id,)))
    with pytest.raises(NoSuchMemory):
        store.add(NewMemory(text="Ana is a friend", kind="derived", derived_from=("nothing",)))


def test_words_without_vector_are_kept_and_found(store: Store) -> None:
    store.add(NewMemory(text="ᚠᚢᚦᚨᚱᚲ"))
    assert count(store, "SELECT count(*) FROM vector") == 0
    assert count(store, "SELECT count(*) FROM memory_text WHERE memory_text MATCH 'ᚠᚢᚦᚨᚱᚲ'") == 1
    assert examine(store).healthy


def test_lists_filter_and_page(store: Store) -> None:
    store.add_many([NewMemory(text=f"note {n}", time=float(n), tags=("odd",) * (n % 2)) for n in range(10)])
    store.add(NewMemory(text="elsewhere", namespace="other", author=SCRIBE))
    assert [memory.text for memory in store.list(tag="odd", until=6, limit=2)] == ["note 5", "note 3"]
    page = store.list(namespace="default", limit=4)
    assert [memory.text for memory in store.list(namespace="default", before=page[-1].num, limit=2)] == [
        "note 5",
        "note 4",
    ]
    assert [memory.text for memory in store.list(author=SCRIBE)] == ["elsewhere"]
    assert store.namespaces() == {"default": 10, "other": 1}
    assert [(record.author.name, record.memories) for record in store.sources()] == [("owner", 10), ("scribe", 1)]


def test_an_episode_is_walked_in_order(store: Store) -> None:
    store.add_many([NewMemory(text=f"turn {n}", episode="chat", position=n) for n in (4, 1, 3, 2, 0)])
    assert [memory.text for memory in store.episode("chat", around=2)] == ["turn 1", "turn 2", "turn 3"]
    assert len(store.episode("chat")) == 5


def test_changes_are_logged_in_order_though_the_clock_goes_back(tmp_path: Path) -> None:
    times = iter([100.0, 90.0, 80.0, 70.0, 60.0])
    store = Store(tmp_path / "memory.db", embedder=EMBEDDER, clock=lambda: next(times))
    first, second = store.add(NewMemory(text="first")), store.add(NewMemory(text="second"))
    store.end_validity(first.id, 95.0)
    store.set_state(second.id, "contested")
    seen = store.changes()
    assert [change.seq for change in seen] == sorted(change.seq for change in seen)
    assert [change.op for change in seen] == ["add", "add", "validity", "state"]
    assert [memory.text for memory in store.list()] == ["second", "first"]
    assert store.get(first.id).valid_to == 95.0
    store.close()


def test_writers_share_commits_and_each_fails_alone(store: Store) -> None:
    failed: list[str] = []
    store.add(NewMemory(text="taken", id="taken"))

    def write(thread: int) -> None:
        for n in range(20):
            store.add(NewMemory(text=f"thread {thread} note {n}"))
            try:
                store.add(NewMemory(text=f"thread {thread}", id="taken"))
            except InvalidMemory as error:
                failed.append(error.message)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 160
    assert count(store, "SELECT count(*) FROM memory") == 161
    assert examine(store).healthy


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    store.add(NewMemory(text="before"))
    writing, read = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO namespace (name) VALUES ('half done')")
        writing.set()
        in_time.append(read.wait(60))

    thread = threading.Thread(target=lambda: store.write(slow))
    thread.start()
    assert writing.wait(60)
    # The writer ends when this has been read, and not before.
    assert list(store.namespaces()) == ["default"]
    read.set()
    thread.join()
    assert in_time == [True]
    assert list(store.namespaces()) == ["default", "half done"]


def test_a_snapshot_stays_as_it_was(store: Store) -> None:
    store.add(NewMemory(text="one"))
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM memory").fetchone() == (1,)
        store.add(NewMemory(text="two"))
        assert connection.execute("SELECT count(*) FROM memory").fetchone() == (1,)


def test_a_full_disk_loses_nothing_that_was_there(store: Store) -> None:
    kept = store.add(NewMemory(text="kept"))
    store.maintain(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall())
    with pytest.raises(DiskFull) as refused:
        store.add(NewMemory(text="word " * 100_000))
    assert refused.value.hint
    assert store.get(kept.id).text == "kept"
    assert examine(store).healthy


def test_a_file_in_use_says_so(store: Store) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="in use"):
        store.add(NewMemory(text="late"))
    other.execute("ROLLBACK")
    other.close()
    assert store.add(NewMemory(text="late")).created


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    Store(path, embedder=EMBEDDER).close()
    with sqlite3.connect(path) as other:
        other.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('memory', 'm099_x', '')"
        )
    other.close()
    with pytest.raises(StoreTooNew, match="m099_x"):
        Store(path, embedder=EMBEDDER)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"this is no database at all, just text" * 50, StoreLocked), (None, StoreUnusable)],
    ids=["other file", "folder is missing"],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, error: type[MemoryStoreError]) -> None:
    path = tmp_path / "memory.db" if content is not None else tmp_path / "no" / "memory.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as refused:
        Store(path, embedder=EMBEDDER)
    assert refused.value.hint
    assert str(tmp_path) not in refused.value.message
    assert content is None or path.read_bytes() == content


def test_the_file_is_for_its_user_alone(store: Store) -> None:
    store.add(NewMemory(text="secret"))
    files = list(store.path.parent.iterdir())
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_what_is_read_in_a_search_is_one_snapshot(store: Store) -> None:
    store.add(NewMemory(text="one"))
    with store.asking(), store.asking():
        assert store.namespaces() == {"default": 1}
        thread = threading.Thread(target=lambda: store.add(NewMemory(text="two")))
        thread.start()
        thread.join()
        assert store.namespaces() == {"default": 1}
    assert store.namespaces() == {"default": 2}


def test_a_log_with_room_ahead_is_read_after_a_crash(store: Store, tmp_path: Path) -> None:
    for n in range(20):
        store.add(NewMemory(text=f"note {n}"))
    log = tmp_path / "memory.db-wal"
    if sys.platform == "linux":
        assert log.read_bytes()[-1000:] == bytes(1000)
    (tmp_path / "crashed").mkdir()
    for name in ("memory.db", "memory.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "crashed" / name)
    copy = Store(tmp_path / "crashed" / "memory.db", embedder=EMBEDDER)
    assert count(copy, "SELECT count(*) FROM memory") == 20
    assert examine(copy).healthy
    copy.close()


@pytest.mark.skipif(sys.platform != "linux", reason="room is made on Linux alone")
def test_room_grows_with_the_log_and_takes_no_space_that_is_needed(tmp_path: Path) -> None:
    room, log = LogRoom(tmp_path / "memory.db"), tmp_path / "memory.db-wal"
    room.keep()
    assert not log.exists()
    for size, expected in ((1000, 2000), (1500, 2000), (3000, 6000), (4 * STEP_BYTES, 5 * STEP_BYTES)):
        if size > (log.stat().st_size if log.exists() else 0):
            log.write_bytes(b"x" * size)
        room.keep()
        assert log.stat().st_size == expected, size
    log.write_bytes(b"x" * (7 * STEP_BYTES))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 * STEP_BYTES, before[1]))
    try:
        room.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.read_bytes() == b"x" * (7 * STEP_BYTES)
