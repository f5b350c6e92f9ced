"""Erasure: after `forget` no byte of text, vector or token is in any file of the store; and the doctor."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memory_store.doctor import examine, repair
from memory_store.embed import StaticEmbedder
from memory_store.erase import Receipt, forget, store_files
from memory_store.errors import InvalidMemory, NoSuchMemory
from memory_store.lexical import LexicalIndex
from memory_store.records import Added, Author, NewMemory
from memory_store.residue import Pieces, Scanner, byte_pieces
from memory_store.rows import Filter
from memory_store.store import Store
from memory_store.vectors import VectorIndex

EMBEDDER = StaticEmbedder()
ANA = Author(kind="person", name="ana")
FILE = Author(kind="file", name="diary.md")
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu", "pha", "gri", "stu", "wem")


def sentence(dice: random.Random, words: int = 12) -> str:
    return " ".join("".join(dice.choices(SYLLABLES, k=dice.randrange(2, 6))) for _ in range(words))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db", embedder=EMBEDDER, busy_seconds=0.2)
    yield opened
    opened.close()


def raw_bytes(store: Store) -> bytes:
    return b"".join(path.read_bytes() for path in store_files(store.path) if path.exists())


def has(raw: bytes, text: str, living: str = "") -> bool:
    """Any run of 12 characters of the text, in UTF-8 or UTF-16: a search of its own, without the code under test."""
    runs = {text[at : at + 12] for at in range(0, max(1, len(text) - 11), 3)}
    return any(run.encode(code) in raw for run in runs if run not in living for code in ("utf-8", "utf-16-le"))


def test_a_thousand_erased_memories_leave_nothing(store: Store) -> None:
    dice = random.Random(7)
    texts = [sentence(dice, 900 if n % 500 == 0 else 12) for n in range(1500)]
    added: list[Added] = []
    for start in range(0, 1500, 100):
        added += store.add_many([NewMemory(text=text) for text in texts[start : start + 100]])
    gone = set(dice.sample(range(1500), 1000))
    vectors = EMBEDDER.embed([texts[n] for n in sorted(gone)]).astype("<f2")
    assert has(raw_bytes(store), texts[min(gone)]), "the search finds what is there"
    receipt = forget(store, ids=[added[n].id for n in sorted(gone)])
    assert receipt.complete
    assert (len(receipt.ids), receipt.removed["memory"], receipt.removed["vector"]) == (1000, 1000, 1000)
    raw = raw_bytes(store)
    assert not any(vector[at : at + 8].tobytes() in raw for vector in vectors[::25] for at in range(0, 256, 16))
    living = "\n".join(texts[n] for n in range(1500) if n not in gone)
    assert not any(has(raw, texts[n], living) for n in sorted(gone)[1::100])
    words = {word for n in gone for word in texts[n].split() if len(word) > 9 and word not in living}
    assert len(words) > 500
    assert not Scanner(word.encode() for word in words).scan(store.path)[0]
    assert examine(store).healthy
    assert examine(store).memories == 500


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (Filter(author=ANA), {"by file", "by owner", "later"}),
        (Filter(author=FILE), {"by ana", "by owner", "later"}),
        (Filter(since=50.0), {"by ana", "by file", "by owner"}),
        (Filter(since=2.0, until=4.0), {"by ana", "later"}),
        (Filter(namespace="default", author=ANA, until=0.0), {"by ana", "by file", "by owner", "later"}),
    ],
    ids=["person", "source", "since", "span", "nothing"],
)
def test_forget_by_who_and_when(store: Store, chosen: Filter, left: set[str]) -> None:
    store.add(NewMemory(text="by ana", author=ANA, time=1.0))
    store.add(NewMemory(text="by file", author=FILE, time=2.0))
    store.add(NewMemory(text="by owner", time=3.0))
    store.add(NewMemory(text="later", time=60.0))
    assert forget(store, chosen=chosen).complete
    assert {memory.text for memory in store.list()} == left
    assert (b"diary.md" in raw_bytes(store)) is ("by file" in left)
    assert store.add(NewMemory(text="by file again", author=FILE)).created


def test_what_rests_on_the_forgotten_goes_with_it(store: Store) -> None:
    ground = store.add(NewMemory(text="Ana was born in Lisbon in 1990"))
    fact = store.add(NewMemory(text="Ana is Portuguese", kind="derived", derived_from=(ground.id,)))
    receipt = forget(store, ids=[ground.id])
    assert receipt.cascaded == (fact.id,)
    assert not has(raw_bytes(store), "Ana is Portuguese")


def test_the_log_keeps_the_number_alone(store: Store) -> None:
    added = store.add(NewMemory(text="a secret of mine", tags=("hidden-tag-name",)))
    store.set_state(added.id, "contested")
    forget(store, ids=[added.id])
    assert [(change.op, change.num, change.body) for change in store.changes()] == [("erase", added.num, None)]
    assert not has(raw_bytes(store), "hidden-tag-name")
    again = store.add(NewMemory(text="something else"))
    assert again.num > added.num


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"ids": ["unknown"]}, NoSuchMemory), ({"chosen": Filter()}, InvalidMemory)],
    ids=["unknown id", "everything by mistake"],
)
def test_a_wrong_request_erases_nothing(store: Store, arguments: dict[str, object], error: type[Exception]) -> None:
    store.add(NewMemory(text="kept"))
    with pytest.raises(error):
        forget(store, **arguments)  # type: ignore[arg-type]
    assert len(store.list()) == 1


def test_a_reader_that_holds_the_log_is_named_and_the_next_start_finishes(tmp_path: Path) -> None:
    store = Store(tmp_path / "memory.db", embedder=EMBEDDER, busy_seconds=0.05)
    added = store.add(NewMemory(text="an unforgettable sentence"))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM memory").fetchone()
    receipt = forget(store, ids=[added.id], patience_seconds=0.05)
    assert receipt.open_reader
    assert not receipt.complete
    assert examine(store).erasure_owed
    other.execute("ROLLBACK")
    other.close()
    store.close()
    again = Store(tmp_path / "memory.db", embedder=EMBEDDER)
    assert not examine(again).erasure_owed
    assert not has(raw_bytes(again), "an unforgettable sentence")
    again.close()


class Notebook:
    """A derived file as an index would keep it: one line for each memory."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path, self.lines = path, {memory.num: memory.text[::-1] for memory in store.list()}
        self._write()

    def _write(self) -> None:
        self.path.write_text("\n".join(self.lines.values()))

    def traces(self, nums: Sequence[int]) -> list[bytes]:
        return [self.lines[num].encode() for num in nums]

    def erase(self, nums: Sequence[int]) -> None:
        self.lines = {num: line for num, line in self.lines.items() if num not in nums}
        self._write()

    def files(self) -> list[Path]:
        return [self.path]


class Careless(Notebook):
    def erase(self, nums: Sequence[int]) -> None:
        pass


@pytest.mark.parametrize(("kind", "complete"), [(Notebook, True), (Careless, False)], ids=["careful", "careless"])
def test_derived_files_are_erased_and_searched(store: Store, kind: type[Notebook], complete: bool) -> None:
    added = store.add_many([NewMemory(text="the first sentence"), NewMemory(text="another thing altogether")])
    index = kind(store.path.with_name("index"), store)
    receipt = forget(store, ids=[added[0].id], derived=[index])
    assert receipt.complete is complete
    assert {name for name, _ in receipt.residue} == (set() if complete else {"index"})


def test_other_files_that_quote_the_text_are_reported(store: Store) -> None:
    added = store.add(NewMemory(text="the spare key lies under the stone"))
    ledger = store.path.with_name("ledger.db")
    ledger.write_bytes(b"x" * 100 + "asked: where does the spare key lies under the stone".encode("utf-16-le"))
    receipt = forget(store, ids=[added.id], also=[ledger])
    assert {name for name, _ in receipt.residue} == {"ledger.db"}


def test_a_search_takes_no_lock_from_whoever_writes(store: Store) -> None:
    """A database that this process has open stays whole when another program opens and closes it after the search."""
    path = store.path.with_name("ledger.db")
    ours = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "CREATE TABLE row (number)", "INSERT INTO row VALUES (1)"):
        ours.execute(statement).fetchall()
    added = store.add(NewMemory(text="the spare key lies under the stone"))
    assert forget(store, ids=[added.id], also=[path, path.with_name("ledger.db-wal")]).complete
    look = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
    look += "print(db.execute('SELECT count(*) FROM row').fetchone()[0]); db.close()"
    seen = []
    for number in (2, 3):
        done = subprocess.run([sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=True)
        seen.append(int(done.stdout))
        ours.execute("INSERT INTO row VALUES (?)", (number,))
    ours.close()
    assert seen == [1, 2]


def test_shared_words_of_the_living_are_no_residue(store: Store) -> None:
    added = store.add_many(
        [NewMemory(text="the spare key lies under the stone"), NewMemory(text="The spare key lies under a pot")]
    )
    receipt = forget(store, ids=[added[0].id])
    assert receipt.complete
    assert store.list()[0].text == "The spare key lies under a pot"


def test_few_bytes_across_two_columns_are_no_residue(store: Store) -> None:
    # The column before the text ends in "]".
    added = store.add_many([NewMemory(text="]the"), NewMemory(text="the cat")])
    receipt = forget(store, ids=[added[0].id])
    assert (receipt.rewritten, receipt.residue) == (True, ())


@pytest.mark.parametrize("at", [0, 1, 7, (4 << 20) - 9, 5_000_003])
def test_the_scanner_finds_a_piece_at_any_offset(tmp_path: Path, at: int) -> None:
    path = tmp_path / "raw"
    path.write_bytes(np.random.default_rng(1).bytes(at) + b"forty-two small pebbles" + bytes(100))
    finds, size = Scanner([b"say: forty-two small pebbles, please"]).scan(path)
    assert finds
    assert size == at + 123
    assert not Scanner([b"say: forty-six large pebbles, please"]).scan(path)[0]


def test_pieces_of_every_length_are_found_among_many(tmp_path: Path) -> None:
    drawn = np.random.default_rng(2)
    sizes = drawn.integers(1, 40, 3000)
    data = [drawn.bytes(int(size)) for size in sizes]
    there, path = data[::3], tmp_path / "raw"
    path.write_bytes(b"-".join(there))
    found = {find.piece for find in Scanner(data).scan(path)[0]}
    raw, pieces = path.read_bytes(), {piece for one in data for piece in byte_pieces(one) if len({*piece}) > 2}
    assert found == {piece for piece in pieces if piece in raw}


def test_many_pieces_are_sampled_evenly() -> None:
    drawn = np.random.default_rng(3)
    held = Pieces((drawn.bytes(100) for _ in range(5000)), 4000)
    assert 1500 < len(held.rows()) <= 4000
    assert abs(held.given / 60_000 - 1) < 0.1


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ("INSERT INTO memory_text (memory_text) VALUES ('delete-all')", "unread"),
        ("DELETE FROM vector WHERE slot & 1", "without_vector"),
        ("INSERT INTO vector VALUES ((1 << 40) | 999, x'00')", "orphans"),
        ("DELETE FROM log WHERE num = 2", "unlogged"),
        ("INSERT INTO log (op, num, time) VALUES ('add', 77, 0)", "unwritten"),
    ],
    ids=["full text lost", "vectors lost", "vector of nothing", "log lost", "log of nothing"],
)
def test_the_doctor_finds_and_repairs(store: Store, damage: str, field: str) -> None:
    store.add_many([NewMemory(text=f"note number {n}") for n in range(4)])
    assert examine(store).healthy
    store.write(lambda connection: connection.execute(damage))
    found = examine(store)
    assert getattr(found, field)
    assert not found.healthy
    assert repair(store).healthy
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM memory_text WHERE memory_text MATCH 'note'").fetchone() == (4,)


def test_the_doctor_mends_an_index_of_the_file(tmp_path: Path) -> None:
    path, sql = tmp_path / "m.db", "UPDATE sqlite_master SET sql = ? WHERE name = 'memory_fingerprint'"
    whole, partial = "CREATE INDEX memory_fingerprint ON memory(fingerprint)", " WHERE num < 0"
    for written in (whole + partial, whole):
        store = Store(path, embedder=EMBEDDER)
        store.add(NewMemory(text=f"a note, and then {written}"))
        store.close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA writable_schema = ON")
            db.execute(sql, (written,))
            db.commit()
    store = Store(path, embedder=EMBEDDER)
    assert "memory_fingerprint" in examine(store).file[0]
    assert repair(store).healthy
    store.close()


def test_the_doctor_tells_of_a_page_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    store = Store(path, embedder=EMBEDDER)
    store.add_many([NewMemory(text=f"note number {n}") for n in range(4)])
    store.maintain(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with store.reading() as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'memory'").fetchone()
    store.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = Store(path, embedder=EMBEDDER)
    for found in (examine(store), repair(store)):
        assert (bool(found.file), found.healthy) == (True, False)
    store.close()


def test_the_doctor_names_what_no_search_finds(store: Store) -> None:
    added = store.add_many([NewMemory(text=text) for text in ("\ufe0f\u0301", "🦊🦊 🎈", "🦊 fox", "лиса")])
    found = examine(store)
    assert (found.healthy, found.wordless) == (True, (added[0].num,))


def test_a_receipt_holds_no_text(store: Store) -> None:
    added = store.add(NewMemory(text="nightingale watermelon"))
    receipt = forget(store, ids=[added.id])
    assert isinstance(receipt, Receipt)
    assert "nightingale" not in repr(receipt)


class Indexed:
    """A store with both indexes in files beside it, as the daemon opens it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder = folder
        self.derived = VectorIndex(store, folder), LexicalIndex(store, folder)

    def raw(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


def test_nothing_of_the_erased_is_in_index_files(store: Store, tmp_path: Path) -> None:
    dice = random.Random(8)
    texts = [sentence(dice) for _ in range(2000)]
    added = store.add_many([NewMemory(text=text) for text in texts])
    indexed = Indexed(store, tmp_path / "index")
    for index in indexed.derived:
        index.close()
    indexed = Indexed(store, tmp_path / "index")
    gone = dice.sample(range(2000), 500)
    living = "\n".join(texts[n] for n in sorted(set(range(2000)) - set(gone)))
    words = sorted({word for n in gone for word in texts[n].split() if len(word) > 9 and word not in living})
    nums = [added[n].num for n in gone]
    traces = [trace for index in indexed.derived for trace in index.traces(nums)]
    before = indexed.raw()
    assert sum(trace in before for trace in traces[::50]) > len(traces[::50]) / 2
    assert sum(word.encode() in before for word in words[::50]) > len(words[::50]) / 4
    receipt = forget(store, ids=[added[n].id for n in gone], derived=indexed.derived)
    assert receipt.complete
    assert {"codes.pages", "words.npz"} <= receipt.scanned.keys()
    for index in indexed.derived:
        index.close()
    raw = indexed.raw()
    assert not [trace for trace in traces[::20] if trace in raw]
    assert not [word for word in words[::20] if word.encode() in raw]
    numbers = np.fromfile(tmp_path / "index" / "nums.pages", np.int64)
    assert not set(nums) & set(numbers.tolist())


def test_a_word_of_later_memories_is_no_residue_of_the_first(store: Store, tmp_path: Path) -> None:
    first = store.add_many([NewMemory(text=f"heather {'pebble ' * (n % 7)}") for n in range(300)])
    indexed = Indexed(store, tmp_path / "index")
    store.add_many([NewMemory(text="heather grows")])
    assert forget(store, ids=[one.id for one in first], derived=indexed.derived).complete
    for index in indexed.derived:
        index.close()


def test_a_repaired_store_is_indexed_anew(store: Store, tmp_path: Path) -> None:
    store.add_many([NewMemory(text=f"pebble number {n}") for n in range(4)])
    indexed = Indexed(store, tmp_path / "index")
    store.write(lambda connection: connection.execute("DELETE FROM log WHERE num = 2"))
    repair(store)
    vectors, words = indexed.derived
    assert sorted(words.search("default", "pebble", 9)[0].tolist()) == [1, 2, 3, 4]
    assert sorted(vectors.search("default", EMBEDDER.embed(["pebble"])[0], 9)[0].tolist()) == [1, 2, 3, 4]
