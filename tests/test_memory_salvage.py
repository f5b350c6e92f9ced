"""A damaged file: whatever page is hit, what the others say is saved, and what cannot be is told."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from memory_store import doctor, withheld
from memory_store.embed import StaticEmbedder
from memory_store.erase import forget
from memory_store.errors import StoreUnusable
from memory_store.export import records
from memory_store.records import OWNER, Author, Memory, NewMemory
from memory_store.salvage import UNKNOWN, salvage
from memory_store.store import Store
from memory_store.trust import Trust

EMBEDDER = StaticEmbedder()
FILE = Author(kind="file", name="/notes/brisk.md")
COUNT = 120


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "memory.db"
    store = Store(path, embedder=EMBEDDER)
    text = "Pier {} of Brisk was painted by hand; " + "the paint was blue. " * 12
    made = [NewMemory(text=text.format(n), author=FILE if n % 3 else OWNER, tags=(f"t{n}",)) for n in range(COUNT)]
    ids = [added.id for added in store.add_many(made)]
    store.set_state(ids[5], "superseded")
    Trust(store).judge(store.get(ids[4]), OWNER, "confirmed")
    gone = store.add(NewMemory(text="The keeper of Brisk is shy", author=FILE))
    forget(store, ids=[gone.id], lasting=True)
    store.close()
    return path


def pages(path: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    connection = sqlite3.connect(path)
    for name, page in connection.execute("SELECT name, pageno FROM dbstat WHERE pageno > 1"):
        found.setdefault(name, []).append(page)
    connection.close()
    return found


def damaged(whole: Path, folder: Path, hit: list[int]) -> Path:
    path = folder / "memory.db"
    content, draw = bytearray(whole.read_bytes()), random.Random(3)
    for page in hit:
        content[(page - 1) * 4096 : page * 4096] = draw.randbytes(4096)
    path.write_bytes(content)
    return path


def held(path: Path) -> tuple[Memory, ...]:
    store = Store(path, embedder=EMBEDDER)
    try:
        assert doctor.examine(store).healthy
        return store.list(limit=1000)
    finally:
        store.close()


@pytest.mark.parametrize(
    "name",
    ["memory_text_data", "vector", "log", "memory_fingerprint", "sqlite_autoindex_memory_1", "embedder", "evidence"],
)
def test_what_is_made_from_the_texts_is_made_anew(whole: Path, tmp_path: Path, name: str) -> None:
    path = damaged(whole, tmp_path, pages(whole)[name])
    before = path.read_bytes()
    found = salvage(path, embedder=EMBEDDER)
    assert (found.memories, found.nameless) == (COUNT, 0)
    saved = {memory.id: memory for memory in held(path)}
    true = Store(whole, embedder=EMBEDDER)
    for memory in true.list(limit=1000):
        assert saved[memory.id].text == memory.text
        assert (saved[memory.id].author, saved[memory.id].state) == (memory.author, memory.state)
    judged = [record.id for _, record in records(true) if record.evidence]
    true.close()
    again = Store(path, embedder=EMBEDDER)
    with again.reading() as connection:
        assert withheld.said_by(connection, again.salt, "default", FILE.name), "what was forgotten stays so"
    assert name == "evidence" or [record.id for _, record in records(again) if record.evidence] == judged
    again.close()
    assert len(found.damaged.read_bytes()) >= len(before)


def test_a_lost_page_takes_its_own_texts_alone(whole: Path, tmp_path: Path) -> None:
    path = damaged(whole, tmp_path, [pages(whole)["memory"][-1]])
    found = salvage(path, embedder=EMBEDDER)
    assert 0 < found.lost < 20
    assert found.memories == COUNT - found.lost
    assert len(held(path)) == found.memories


def test_whose_name_is_lost_is_a_stranger(whole: Path, tmp_path: Path) -> None:
    found = pages(whole)
    path = damaged(whole, tmp_path, found["source"] + found["sqlite_autoindex_source_1"])
    assert salvage(path, embedder=EMBEDDER).nameless == COUNT
    memories = held(path)
    assert {memory.author for memory in memories} == {UNKNOWN}
    assert {memory.taint for memory in memories} == {"model", "file"}


def test_where_nothing_can_be_read_all_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(random.Random(1).randbytes(30_000))
    before = path.read_bytes()
    with pytest.raises(StoreUnusable) as refused:
        salvage(path, embedder=EMBEDDER)
    assert "import" in refused.value.hint
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_whole_file_loses_nothing(whole: Path, tmp_path: Path) -> None:
    path = damaged(whole, tmp_path, [])
    found = salvage(path, embedder=EMBEDDER)
    assert (found.memories, found.lost, found.nameless) == (COUNT, 0, 0)


def test_an_earlier_damaged_file_is_not_written_over(whole: Path, tmp_path: Path) -> None:
    path = damaged(whole, tmp_path, [])
    kept = salvage(path, embedder=EMBEDDER).damaged
    before = path.read_bytes(), kept.read_bytes()
    with pytest.raises(StoreUnusable, match="an earlier salvage"):
        salvage(path, embedder=EMBEDDER)
    assert (path.read_bytes(), kept.read_bytes()) == before
