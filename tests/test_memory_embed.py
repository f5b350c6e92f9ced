"""The embedder: the shipped table, its tokens, and the change to another model while the store is in use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memory_store import vector_rows
from memory_store.doctor import examine
from memory_store.embed import FOLDER, StaticEmbedder, Vectors
from memory_store.errors import EmbedderFault
from memory_store.recall import Question, Recall
from memory_store.records import NewMemory
from memory_store.reembed import Elder, reembed
from memory_store.store import Store

STATIC = StaticEmbedder()
TEXTS = ("The cat sleeps on the warm stove", "A kitten naps by the oven", "Quarterly tax returns are due in May")


class Halved:
    """Another real model: the first half of the static one's numbers."""

    digest, width = "halved:1", 128

    def embed(self, texts: Sequence[str]) -> Vectors:
        return STATIC.embed(texts)[:, :128].copy()


class Faulty:
    digest, width = "faulty:1", 4

    def __init__(self, rows: object) -> None:
        self._rows = np.asarray(rows, np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._rows


def test_the_shipped_table_is_what_its_digest_says() -> None:
    rows, scales = np.load(FOLDER / "rows.npy"), np.load(FOLDER / "scales.npy")
    card = json.loads((FOLDER / "table.json").read_text())
    held = rows.tobytes() + scales.tobytes() + (FOLDER / "vocabulary.txt").read_bytes()
    assert hashlib.sha256(held).hexdigest() == card["digest"]
    assert (rows.shape, rows.dtype, scales.dtype) == ((29_525, 256), np.int8, np.float16)
    assert card["digest"][:32] in STATIC.digest
    assert {"LICENSE", "NOTICE"} <= {path.name for path in FOLDER.iterdir()}


def test_meaning_is_nearer_than_chance() -> None:
    near, far = STATIC.embed(TEXTS)[0] @ STATIC.embed(TEXTS)[1:].T
    assert near > 0.4 > 0.2 > far


def test_alone_and_in_a_batch_are_the_same_bits() -> None:
    texts = [*TEXTS, "word " * 20_000, "ünïcode 東京"]
    batch = STATIC.embed(texts)
    assert batch.dtype == np.float32
    assert np.allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-6)
    for text, row in zip(texts, batch, strict=True):
        assert (StaticEmbedder().embed([text])[0] == row).all()


@pytest.mark.parametrize(
    "text", ["", " ", "\0\1", "ᚠᚢᚦ", "x" * 500], ids=["empty", "blank", "control", "runes", "long"]
)
def test_unknown_text_gives_zero_and_no_warning(text: str) -> None:
    assert not STATIC.embed([text]).any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("getUserName", "get user name"),
        ("parse_http_header", "par ##se _ http _ header"),
        ("HTTPServerError", "http server error"),
        ("Café", "cafe"),
        ("YouTube", "youtube"),
        ("unaffable", "una ##ffa ##ble"),
        ("東京", "東 京"),
    ],
)
def test_tokens(one: str, other: str) -> None:
    words = (FOLDER / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    assert [words[number] for number in STATIC.tokens(one)] == other.split()


def test_no_texts_give_no_rows() -> None:
    assert STATIC.embed([]).shape == (0, 256)


def test_a_new_embedder_fills_beside_the_old_and_takes_over(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    old = Store(path, embedder=STATIC)
    old.add_many([NewMemory(text=f"{text} {n}") for n in range(10) for text in TEXTS])
    old.close()
    store = Store(path, embedder=Halved())
    assert [row.state for row in store.embedders()] == ["active", "filling"]
    steps = reembed(store, batch=8)
    assert next(steps).done == 8
    added = store.add(NewMemory(text="said in between"))
    with store.reading() as connection:
        active, filling = vector_rows.embedders(connection)
        assert len(vector_rows.get(connection, active, range(1, 40))[0]) == 30, "the old ones serve until the end"
        assert len(vector_rows.get(connection, filling, range(1, 40))[0]) == 9
    progress = list(steps)[-1]
    assert progress.done == progress.total
    with store.reading() as connection:
        (only,) = vector_rows.embedders(connection)
        nums, rows = vector_rows.get(connection, only, range(1, 40))
        scanned = list(vector_rows.scan(connection, only, batch=7))
    assert (only.digest, only.state, len(nums), rows.shape) == ("halved:1", "active", 31, (31, 128))
    assert [num for part, _ in scanned for num in part] == nums
    assert added.num in nums
    assert examine(store).healthy
    assert store.changes(limit=99)[-1].op == "embedder"
    store.close()


def test_search_by_meaning_goes_on_while_vectors_are_made(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    old = Store(path, embedder=STATIC)
    old.add_many([NewMemory(text=text, id=str(n)) for n, text in enumerate(TEXTS)])
    old.close()
    store = Store(path, embedder=Halved())
    recall = Recall(store, elder=Elder(store, STATIC))

    def first(text: str) -> tuple[str, float]:
        hit = recall.search(Question(text=text))[0]
        return hit.memory.id, hit.why.cosine

    before = [first(text) for text in TEXTS]
    assert [(name, round(cosine, 2)) for name, cosine in before] == [(str(n), 1.0) for n in range(len(TEXTS))]
    steps = reembed(store, batch=1)
    next(steps)
    assert [first(text)[0] for text in TEXTS] == [name for name, _ in before]
    list(steps)
    assert [first(text)[0] for text in TEXTS] == [name for name, _ in before]
    store.close()


def test_vectors_come_back_as_half_floats(tmp_path: Path) -> None:
    store = Store(tmp_path / "memory.db", embedder=STATIC)
    nums = [added.num for added in store.add_many([NewMemory(text=text) for text in TEXTS])]
    with store.reading() as connection:
        found, rows = vector_rows.get(connection, vector_rows.embedders(connection)[0], nums[::-1])
    assert found == nums
    assert (rows == STATIC.embed(TEXTS).astype(np.float16)).all()
    store.close()


@pytest.mark.parametrize(
    ("rows", "words"),
    [([[1, 0, 0]], "promised"), ([[1, 0, 0, 0]] * 2, "promised"), ([[float("nan"), 0, 0, 1]], "finite")],
    ids=["narrow", "too many", "not a number"],
)
def test_a_faulty_embedder_stores_nothing(tmp_path: Path, rows: object, words: str) -> None:
    store = Store(tmp_path / "memory.db", embedder=Faulty(rows))
    with pytest.raises(EmbedderFault, match=words):
        store.add(NewMemory(text="something"))
    assert store.list() == ()
    store.close()


def test_a_zero_vector_is_no_vector(tmp_path: Path) -> None:
    store = Store(tmp_path / "memory.db", embedder=Faulty([[0, 0, 0, 0]]))
    store.add(NewMemory(text="something"))
    assert examine(store).healthy
    store.close()
