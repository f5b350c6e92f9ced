"""Encryption at rest: the file says nothing, and opens with its key alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

from localai.config import Config
from localai.memories import Memories
from memory_store.cipher import Key, key_from_keyring, new_key
from memory_store.doctor import examine
from memory_store.embed import StaticEmbedder
from memory_store.erase import forget, store_files
from memory_store.errors import DiskFull, InvalidMemory, StoreLocked
from memory_store.recall import Question
from memory_store.records import NewMemory
from memory_store.store import Store

EMBEDDER = StaticEmbedder()
TEXT = "the treasure lies under the old oak"


class Drawer(KeyringBackend):
    """A keyring that lives as long as the test."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password


@pytest.fixture
def drawer() -> Iterator[Drawer]:
    before = keyring.get_keyring()
    made = Drawer()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_nothing_of_the_text_is_in_the_file(tmp_path: Path) -> None:
    key = new_key()
    store = Store(tmp_path / "memory.db", embedder=EMBEDDER, key=key)
    added = store.add(NewMemory(text=TEXT))
    raw = b"".join(path.read_bytes() for path in store_files(store.path) if path.exists())
    assert len(raw) > 8192
    assert b"treasure" not in raw
    assert b"SQLite format" not in raw
    store.close()
    again = Store(tmp_path / "memory.db", embedder=EMBEDDER, key=key)
    assert again.get(added.id).text == TEXT
    with pytest.raises(InvalidMemory):
        again.add(NewMemory(text="another", id=added.id))
    again.maintain(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall())
    with pytest.raises(DiskFull):
        again.add(NewMemory(text="word " * 100_000))
    assert forget(again, ids=[added.id]).complete
    assert examine(again).healthy
    again.close()


@pytest.mark.parametrize("key", [None, new_key()], ids=["no key", "wrong key"])
def test_another_key_opens_nothing(tmp_path: Path, key: Key | None) -> None:
    path = tmp_path / "memory.db"
    store = Store(path, embedder=EMBEDDER, key=new_key())
    store.add(NewMemory(text=TEXT))
    store.close()
    before = path.read_bytes()
    with pytest.raises(StoreLocked) as refused:
        Store(path, embedder=EMBEDDER, key=key)
    assert refused.value.hint
    assert path.read_bytes() == before


def test_the_keyring_keeps_the_key(drawer: Drawer) -> None:
    with pytest.raises(StoreLocked, match="no key"):
        key_from_keyring("home")
    made = key_from_keyring("home", create=True)
    assert key_from_keyring("home") == made
    assert made.raw.hex() not in repr(made)
    assert list(drawer.held) == [("localai memory", "home")]


def test_a_short_key_is_refused() -> None:
    with pytest.raises(StoreLocked, match="32 bytes"):
        Key(b"short")


def test_an_encrypted_store_is_known_as_one(tmp_path: Path) -> None:
    for path, key in ((tmp_path / "plain.db", None), (tmp_path / "secret.db", new_key())):
        store = Store(path, embedder=EMBEDDER, key=key)
        assert store.encrypted is (key is not None)
        store.close()


def test_the_daemons_memory_is_encrypted_where_it_is_set(tmp_path: Path, drawer: Drawer) -> None:
    def opened(encrypted: int) -> Memories:
        return Memories(Config(home=tmp_path, memory_encrypted=encrypted))

    memories = opened(1)
    memories.remember(NewMemory(text=TEXT))
    memories.close()
    assert [name for _, name in drawer.held] == [str(tmp_path / "memory.db")]
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        assert b"treasure" not in path.read_bytes(), path
    memories = opened(1)
    assert [hit.memory.text for hit in memories.search(Question(text="the treasure"))] == [TEXT]
    memories.close()
    with pytest.raises(StoreLocked, match="another key"):
        opened(0).search(Question(text="the treasure"))
    drawer.held.clear()
    with pytest.raises(StoreLocked, match="no key"):
        opened(1).search(Question(text="the treasure"))


def test_a_machine_without_a_keyring_is_told_what_to_do(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    try:
        with pytest.raises(StoreLocked, match="no OS keyring") as refused:
            Memories(Config(home=tmp_path, memory_encrypted=1)).search(Question(text="the treasure"))
    finally:
        keyring.set_keyring(before)
    assert "PYTHON_KEYRING_BACKEND" in refused.value.hint


def test_a_plain_memory_is_never_taken_for_an_encrypted_one(tmp_path: Path, drawer: Drawer) -> None:
    plain = Memories(Config(home=tmp_path))
    plain.remember(NewMemory(text=TEXT))
    plain.close()
    with pytest.raises(StoreLocked, match="not encrypted"):
        Memories(Config(home=tmp_path, memory_encrypted=1)).search(Question(text="the treasure"))
    assert not drawer.held
