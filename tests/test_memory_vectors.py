"""The vector index against plain comparison with every row, over real stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from memory_store import doctor
from memory_store.codecs import Int8Codec
from memory_store.embed import Vectors
from memory_store.erase import forget
from memory_store.errors import InvalidMemory
from memory_store.pages import PAGE_ROWS, PagePool
from memory_store.records import NewMemory
from memory_store.shelf import spans
from memory_store.store import Store
from memory_store.vectors import Tier, VectorIndex

WIDTH = 64
FLAT = 2048


class Numbered:
    """The text is a number; rows of the same hundred are alike."""

    digest = "numbered"
    width = WIDTH

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._middles = random.standard_normal((100, WIDTH)).astype(np.float32)
        self._own = random.standard_normal((20_000, WIDTH)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        numbers = [int(text) for text in texts]
        rows = self._middles[[number % 100 for number in numbers]] + 0.8 * self._own[numbers]
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


EMBEDDER = Numbered()


def filled(path: Path, rows: range, namespace: str = "default") -> Store:
    store = Store(path, embedder=EMBEDDER)
    add(store, rows, namespace)
    return store


def add(store: Store, rows: range, namespace: str = "default", batch: int = 500) -> None:
    for start in range(rows.start, rows.stop, batch):
        part = rows[start - rows.start : start - rows.start + batch]
        store.add_many([NewMemory(text=str(number), namespace=namespace) for number in part])


def truth(rows: range, query: Vectors, k: int) -> list[int]:
    table = EMBEDDER.embed([str(number) for number in rows]).astype(np.float16).astype(np.float32)
    return (np.argsort(-(table @ query), kind="stable")[:k] + 1).tolist()


QUERIES = EMBEDDER.embed([str(number) for number in range(19_900, 19_960)])


@pytest.mark.parametrize(
    ("tier", "rows", "least"),
    [("int8", 1500, 0.999), ("int8", 5000, 0.97), ("binary", 1500, 0.98), ("binary", 5000, 0.95)],
    ids=["flat", "pages", "binary-flat", "binary-pages"],
)
def test_finds_what_a_full_comparison_finds(tmp_path: Path, tier: Tier, rows: int, least: float) -> None:
    store = filled(tmp_path / "m.db", range(rows))
    index = VectorIndex(store, tmp_path / "index", tier=tier, flat_rows=FLAT)
    index.wait()
    found = exact = 0
    for query in QUERIES:
        true = set(truth(range(rows), query, 10))
        found += len(true & set(index.search("default", query, 10)[0].tolist()))
        exact += len(true & set(index.search("default", query, 10, exact=True)[0].tolist()))
    assert exact == 10 * len(QUERIES)
    assert found >= least * 10 * len(QUERIES)


@pytest.mark.parametrize("name", ["codes.pages", "nums.pages", "factors.pages"])
@pytest.mark.parametrize("size", [None, 100], ids=["missing", "cut"])
def test_an_index_without_its_pages_is_made_anew(tmp_path: Path, name: str, size: int | None) -> None:
    store = filled(tmp_path / "m.db", range(50))
    VectorIndex(store, tmp_path / "index").close()
    found = tmp_path / "index" / name
    if size is None:
        found.unlink()
    else:
        os.truncate(found, size)
    index = VectorIndex(store, tmp_path / "index")
    assert index.search("default", QUERIES[0], 10)[0].tolist() == truth(range(50), QUERIES[0], 10)
    index.close()


def test_an_index_that_differs_from_the_store_is_found_and_mended(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(700))
    forget(store, ids=[store.list()[3].id])
    VectorIndex(store, tmp_path / "index").close()
    with (tmp_path / "index" / "codes.pages").open("r+b") as file:
        file.seek(20 * WIDTH)
        file.write(bytes(WIDTH))
    index = VectorIndex(store, tmp_path / "index")
    assert not index.fits()
    doctor.index_anew(store)
    assert index.fits()
    index.close()


def test_a_write_is_found_by_the_next_search(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(10))
    index = VectorIndex(store)
    added = store.add(NewMemory(text="777"))
    nums, scores = index.search("default", EMBEDDER.embed(["777"])[0], 1)
    assert nums.tolist() == [added.num]
    assert scores[0] == pytest.approx(1, abs=1e-3)


def test_a_write_of_another_program_is_found(tmp_path: Path) -> None:
    store, other = filled(tmp_path / "m.db", range(10)), Store(tmp_path / "m.db", embedder=EMBEDDER)
    index = VectorIndex(store, tmp_path / "index")
    second = VectorIndex(other, tmp_path / "index")
    added = other.add(NewMemory(text="777"))
    for each in (index, second):
        assert each.search("default", EMBEDDER.embed(["777"])[0], 1)[0].tolist() == [added.num]


def test_namespaces_do_not_mix(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(100), "a")
    add(store, range(100, 200), "b")
    index = VectorIndex(store)
    assert set(index.search("a", QUERIES[0], 500)[0].tolist()) == set(range(1, 101))
    assert set(index.search("b", QUERIES[0], 500)[0].tolist()) == set(range(101, 201))
    assert len(index.search("none", QUERIES[0], 5)[0]) == 0


def test_equal_rows_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db", embedder=EMBEDDER)
    store.add_many([NewMemory(text="5", id=f"id-{number}") for number in range(50)])
    nums, _ = VectorIndex(store).search("default", EMBEDDER.embed(["5"])[0], 50)
    assert nums.tolist() == list(range(1, 51))


@pytest.mark.parametrize("batch", [1000, 37], ids=str)
def test_restart_and_rebuild_answer_the_same(tmp_path: Path, batch: int) -> None:
    store = Store(tmp_path / "m.db", embedder=EMBEDDER)
    index = VectorIndex(store, tmp_path / "index", flat_rows=FLAT)
    add(store, range(6000), batch=batch)
    index.wait()
    before = [index.search("default", query, 10) for query in QUERIES]
    index.close()
    opened = VectorIndex(store, tmp_path / "index", flat_rows=FLAT)
    rebuilt = VectorIndex(store, None, flat_rows=FLAT)
    rebuilt.wait()
    for other in (opened, rebuilt):
        for query, (nums, scores) in zip(QUERIES, before, strict=True):
            found = other.search("default", query, 10)
            assert found[0].tolist() == nums.tolist()
            assert found[1].tolist() == scores.tolist()


def test_what_a_killed_build_leaves_is_no_harm(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(1500))
    index = VectorIndex(store, tmp_path / "index")
    index.close()
    with (tmp_path / "index" / "codes.pages").open("r+b") as file:
        file.seek(0, 2)
        file.write(b"rest of a build" * 1000)
    add(store, range(1500, 1600))
    opened = VectorIndex(store, tmp_path / "index")
    assert opened.search("default", QUERIES[0], 10, exact=True)[0].tolist() == truth(range(1600), QUERIES[0], 10)
    opened.close()
    (tmp_path / "index" / "directory.npz").write_bytes(b"PK torn")
    opened = VectorIndex(store, tmp_path / "index")
    assert opened.search("default", QUERIES[0], 10, exact=True)[0].tolist() == truth(range(1600), QUERIES[0], 10)


def test_an_index_of_another_format_is_made_anew(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(300))
    index = VectorIndex(store, tmp_path / "index")
    index.close()
    saved = tmp_path / "index" / "directory.npz"
    with np.load(saved) as arrays:
        kept = dict(arrays)
    meta = json.loads(str(kept["meta"]))
    # Clusters, as they were before sketches: their pages must not be taken for rows in order.
    kept["meta"] = np.array(json.dumps(meta | {"format": 2}))
    kept["1.pages"] = kept["1.pages"][::-1] + 1
    np.savez(saved, **kept)
    opened = VectorIndex(store, tmp_path / "index")
    assert opened.search("default", QUERIES[0], 10, exact=True)[0].tolist() == truth(range(300), QUERIES[0], 10)
    opened.close()
    with np.load(saved) as arrays:
        assert json.loads(str(arrays["meta"]))["format"] == 3


@pytest.mark.parametrize("tier", ["int8", "binary"])
def test_sketched_rows_that_are_forgotten_are_not_found(tmp_path: Path, tier: Tier) -> None:
    store = filled(tmp_path / "m.db", range(3000))
    index = VectorIndex(store, tmp_path / "index", tier=tier, flat_rows=FLAT)
    index.wait()
    near = index.search("default", QUERIES[0], 300)[0].tolist()
    forget(store, ids=[memory.id for memory in store.get_many(near)], derived=[index])
    for _ in range(2):
        left = index.search("default", QUERIES[0], 300)[0].tolist()
        assert len(left) == 300
        assert not set(left) & set(near)
        # Once with the rows only wiped, once with their sketch made anew.
        index.wait()
        index._seen.clear()
    assert not any(len(segment.gone) for segment in index._shelves[1].segments)


def test_an_index_of_more_holes_than_rows_is_made_anew(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(300))
    index = VectorIndex(store, tmp_path / "index")
    forget(store, ids=[memory.id for memory in store.get_many(range(1, 201))], derived=[index])
    assert index._shelves[1].rows == 300
    index.close()
    opened = VectorIndex(store, tmp_path / "index")
    assert opened._shelves[1].rows == 100
    assert set(opened.search("default", QUERIES[0], 300)[0].tolist()) == set(range(201, 301))


def test_an_index_that_was_killed_while_it_was_made_anew_is_made_once_more(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(300))
    index = VectorIndex(store, tmp_path / "index")
    forget(store, ids=[memory.id for memory in store.get_many(range(1, 201))], derived=[index])
    index.close()
    store.close()
    # Its pages hold something else by then than the list of before says.
    dies = (
        "import os, sys; from pathlib import Path; from tests.test_memory_vectors import *; at = Path(sys.argv[1])\n"
        "store = Store(at / 'm.db', embedder=EMBEDDER); index = VectorIndex(store, at / 'index')\n"
        "add(store, range(300, 350)); index.catch_up(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(tmp_path)]).returncode == 9
    store = Store(tmp_path / "m.db", embedder=EMBEDDER)
    opened = VectorIndex(store, tmp_path / "index")
    assert opened.fits()
    assert opened.search("default", QUERIES[0], 300)[0].size == 150


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        (0, []),
        (2, []),
        (3, [(0, 3)]),
        (11, [(0, 6), (6, 9)]),
        (40, [(0, 12), (12, 24), (24, 36), (36, 39)]),
    ],
    ids=str,
)
def test_segments_depend_on_the_count_of_pages_alone(full: int, expected: list[tuple[int, int]]) -> None:
    assert spans(full, 3, 4) == expected


@pytest.mark.parametrize("tier", ["int8", "binary"])
def test_nothing_is_left_of_forgotten_vectors(tmp_path: Path, tier: Tier) -> None:
    store = filled(tmp_path / "m.db", range(5000))
    index = VectorIndex(store, tmp_path / "index", tier=tier, flat_rows=FLAT)
    index.wait()
    gone = list(range(100, 1500, 14))
    traces = index.traces(gone)
    receipt = forget(store, ids=[memory.id for memory in store.get_many(gone)], derived=[index])
    assert receipt.complete
    assert len(traces) >= 95
    held = (tmp_path / "index" / "codes.pages").read_bytes()
    assert not [trace for trace in traces if trace in held]
    left = set(index.search("default", QUERIES[0], 6000, exact=True)[0].tolist())
    assert left == set(range(1, 5001)) - set(gone)


def test_searches_go_on_while_rows_are_added_and_clustered(tmp_path: Path) -> None:
    store = filled(tmp_path / "m.db", range(1000))
    index = VectorIndex(store, tmp_path / "index", flat_rows=FLAT)
    done, wrong = Event(), []

    def ask() -> None:
        # With a breath between two, or adding the rows takes most of its time to get its turn.
        while not done.wait(0.005):
            nums, scores = index.search("default", QUERIES[0], 10)
            if len(set(nums.tolist())) != 10 or (np.diff(scores) > 0).any():
                wrong.append(nums)

    readers = [Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    add(store, range(1000, 9000), batch=100)
    index.wait()
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    shelf = index._shelves[1]
    assert shelf.sketched == ((0, 12),)
    assert shelf.rows == 9000


@pytest.mark.parametrize(
    ("vector", "k"),
    [(QUERIES[0][:10], 5), (QUERIES[0], 0), (np.full(WIDTH, np.nan, np.float32), 5)],
    ids=["width", "none", "nan"],
)
def test_impossible_questions_are_refused(tmp_path: Path, vector: Vectors, k: int) -> None:
    index = VectorIndex(filled(tmp_path / "m.db", range(5)))
    with pytest.raises(InvalidMemory):
        index.search("default", vector, k)


@pytest.mark.parametrize("accelerated", [True, False], ids=["accelerated", "plain"])
def test_codes_give_the_products(accelerated: bool) -> None:
    codec, rows = Int8Codec(WIDTH, accelerated=accelerated), EMBEDDER.embed([str(100 * number) for number in range(9)])
    codes, factors = codec.encode(rows)
    found = codec.scorer(QUERIES[0])([codes[:4], codes[4:]], factors)
    assert np.abs(found - rows @ QUERIES[0]).max() < 0.01
    assert np.abs(codec.decode(codes, factors) - rows).max() < 0.01


def test_a_page_has_its_blocks_before_it_is_written(tmp_path: Path) -> None:
    pool = PagePool(tmp_path, 256)
    pool.take()
    sizes = {"codes": 256, "factors": 4, "nums": 8}
    for path in pool.files():
        found = path.stat()
        assert found.st_blocks * 512 >= PAGE_ROWS * sizes[path.stem], "a hole may find the disk full"
        assert found.st_blocks * 512 < found.st_size, "and no more than that"
