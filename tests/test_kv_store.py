"""The KV cache outside the cells: what is found, that budgets hold, and that nothing bad is ever served."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kv import block_file, upkeep
from backends.kv.index import NAME, Index, IndexUnusable, file_size
from backends.kv.keys import BLOCK, block_key, branch_key, packed, root_key
from backends.kv.store import Store
from backends.kv_frames import KvGrant
from backends.prefix import Held

ROOT = root_key({"engine": "test"}, "weights", BLOCK)
BYTES = 4
"""A block's content takes so many bytes a token here."""


class Codec:
    """Whole blocks of the product's size; the store asks for nothing else of it."""

    block = BLOCK
    whole = False

    def export(self, seq: int, start: int, end: int) -> bytearray:
        raise AssertionError

    def append(self, seq: int, start: int, end: int, payload: bytearray) -> bool:
        raise AssertionError


def content(tokens: list[int]) -> bytearray:
    return bytearray(packed(tokens).tobytes())


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def keep(store: Store, tokens: list[int]) -> None:
    """Put all blocks of a sequence, its short tail too, as the cells do at the end of a turn."""
    parent = store.root(Held(tokens))
    while parent.end < len(tokens):
        part = packed(tokens[parent.end : parent.end + BLOCK])
        node = store.known(parent, part) or store.put(parent, part, content(part.tolist()), 1.0)
        if node is None or len(part) < BLOCK:
            return
        parent = node


def served(store: Store, tokens: list[int]) -> tuple[list[int], set[str]]:
    """What the store gives for a prompt: the tokens that the content stands for, and from which tiers."""
    found: list[int] = []
    tiers: set[str] = set()
    for step in store.match(Held(tokens)).steps:
        taken = store.take(step.node)
        if taken is None:
            break
        found += packed([]).__class__("I", bytes(taken[0])).tolist()[: step.take]
        tiers.add(taken[1])
    return found, tiers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(ram: int = 1 << 20, ssd: int = 1 << 20, root: bytes = ROOT) -> Store:
        made.append(Store(KvGrant(ram=ram, ssd=ssd, folder=str(folder)), root, Codec()))
        return made[-1]

    yield make
    for store in made:
        store.close(2.0)


def stored(store: Store) -> None:
    """Wait for the writer."""
    store.close(120.0)


def test_keys_depend_on_everything() -> None:
    tokens = packed(range(BLOCK))
    roots = {
        ROOT,
        root_key({"engine": "other"}, "weights", BLOCK),
        root_key({"engine": "test"}, "other", BLOCK),
        root_key({"engine": "test"}, "weights", 128),
        branch_key(ROOT, ("adapter",)),
    }
    keys = {block_key(root, part) for root in roots for part in (tokens, tokens[:-1])}
    assert len(keys) == 10
    assert branch_key(ROOT, ()) == ROOT


@pytest.mark.parametrize("length", [1, BLOCK, BLOCK + 9, 3 * BLOCK - 1], ids=str)
def test_a_sequence_survives_a_restart(open_store: Callable[..., Store], length: int) -> None:
    tokens = text(1, length)
    first = open_store()
    keep(first, tokens)
    assert served(first, tokens) == (tokens, {"ram"})
    stored(first)
    assert served(open_store(), tokens) == (tokens, {"ssd"})


def test_part_of_a_block_serves_a_prompt_that_branches_off(open_store: Callable[..., Store]) -> None:
    store = open_store()
    tokens = text(1, 3 * BLOCK)
    keep(store, tokens)
    for common in (10, BLOCK + 77, 2 * BLOCK):
        branch = tokens[:common] + [5000] * 50
        assert served(store, branch)[0] == tokens[:common]


def test_a_longer_tail_takes_the_place_of_a_shorter(open_store: Callable[..., Store], folder: Path) -> None:
    store = open_store()
    tokens = text(1, 2 * BLOCK)
    for length in (300, 400, 2 * BLOCK):
        keep(store, tokens[:length])
    stored(store)
    assert upkeep.stats(folder).tokens == 2 * BLOCK


def test_a_shared_prefix_is_kept_once(open_store: Callable[..., Store], folder: Path) -> None:
    store = open_store()
    shared = text(0, 4 * BLOCK)
    for seed in range(1, 6):
        keep(store, shared + text(seed, 40))
    stored(store)
    assert upkeep.stats(folder).tokens == 4 * BLOCK + 5 * 40


def test_other_models_and_adapters_see_nothing(open_store: Callable[..., Store]) -> None:
    tokens = text(1, BLOCK)
    first = open_store()
    keep(first, tokens)
    stored(first)
    other = open_store(root=root_key({"engine": "test"}, "other weights", BLOCK))
    assert served(other, tokens) == ([], set())
    assert open_store().match(Held(tokens, ("adapter",))).length == 0


@pytest.mark.parametrize("change", ["flip", "cut", "foreign", "gone", "empty"])
def test_a_bad_block_is_never_served(open_store: Callable[..., Store], folder: Path, change: str) -> None:
    tokens, first = text(1, 4 * BLOCK), open_store()
    keep(first, tokens)
    stored(first)
    store = open_store()
    path = block_file.place(folder, store.match(Held(tokens)).steps[2].node.key)
    spoil(path, change, 200)
    assert served(store, tokens)[0] == tokens[: 2 * BLOCK]
    # It is computed again, and then it is good.
    keep(store, tokens)
    assert served(store, tokens)[0] == tokens


def spoil(path: Path, change: str, at: int) -> None:
    data = bytearray(path.read_bytes())
    if change == "flip":
        data[at] ^= 4
        path.write_bytes(data)
    elif change == "gone":
        path.unlink()
    elif change == "foreign":
        shutil.copy(next(p for p in path.parents[1].glob("*/*.kv") if p != path), path)
    else:
        path.write_bytes(data[: len(data) // 2] if change == "cut" else b"")


def test_flipped_bits_in_100_files_are_all_found(open_store: Callable[..., Store], folder: Path) -> None:
    first = open_store()
    for seed in range(100):
        keep(first, text(seed, BLOCK))
    stored(first)
    draw = random.Random(0)
    for path in folder.glob("*/*.kv"):
        spoil(path, "flip", draw.randrange(path.stat().st_size))
    store = open_store()
    assert [served(store, text(seed, BLOCK))[0] for seed in range(50)] == [[]] * 50
    stored(store)
    assert upkeep.sweep(folder, read=True).bad == 50
    assert upkeep.stats(folder).blocks == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 900)), max_size=12), st.integers(0, 6000))
def test_ram_stays_within_its_budget(puts: list[tuple[int, int]], budget: int) -> None:
    store = Store(KvGrant(ram=budget), ROOT, Codec())
    for seed, length in puts:
        keep(store, text(seed, length))
        report = store.report()
        assert report.ram_bytes <= budget
        found, _ = served(store, text(seed, length))
        assert found == text(seed, length)[: len(found)]


def test_the_cap_holds_over_all_children_at_every_write(open_store: Callable[..., Store], folder: Path) -> None:
    cap = 5 * file_size(BLOCK * BYTES) + 10
    one, other = open_store(ssd=cap), open_store(ssd=cap, root=root_key({}, "b", BLOCK))
    for seed in range(10):
        keep(one, text(seed, BLOCK))
        keep(other, text(seed, BLOCK))
    stored(one)
    stored(other)
    sizes = [path.stat().st_size for path in folder.glob("*/*.kv")]
    assert (len(sizes), sum(sizes)) == (5, upkeep.totals(folder)["bytes"])
    assert sum(sizes) <= cap


def test_eviction_goes_from_the_end_and_spares_leases(open_store: Callable[..., Store], folder: Path) -> None:
    store = open_store()
    tokens, leased = text(1, 4 * BLOCK), text(2, BLOCK)
    keep(store, tokens)
    keep(store, leased)
    stored(store)
    index = Index(folder)
    index.lease([store.match(Held(leased)).steps[0].node.key], os.getpid())
    index.close()
    gone = upkeep.trim(folder, 3 * file_size(BLOCK * BYTES))
    fresh = open_store()
    assert len(gone) == 2
    assert (fresh.match(Held(tokens)).length, fresh.match(Held(leased)).length) == (2 * BLOCK, BLOCK)
    assert upkeep.trim(folder, 0)
    assert upkeep.totals(folder)["blocks"] == 1


def test_a_child_hears_of_evictions(open_store: Callable[..., Store], folder: Path) -> None:
    first = open_store()
    keep(first, text(1, BLOCK))
    stored(first)
    store = open_store()
    assert store.match(Held(text(1, BLOCK))).length == BLOCK
    store.forget(upkeep.trim(folder, 0))
    assert store.match(Held(text(1, BLOCK))).length == 0


@pytest.mark.parametrize("ill", ["deleted", "a file", "newer index", "damaged index", "read-only"])
def test_a_folder_of_no_use_costs_nothing_but_time(open_store: Callable[..., Store], folder: Path, ill: str) -> None:
    first = open_store()
    keep(first, text(1, BLOCK))
    stored(first)
    if ill in ("deleted", "a file"):
        shutil.rmtree(folder)
    if ill == "a file":
        folder.write_text("in the way")
    if ill == "newer index":
        db = sqlite3.connect(folder / NAME)
        db.execute("pragma user_version = 99")
        db.close()
    if ill == "damaged index":
        for path in folder.glob(NAME + "*"):
            path.write_bytes(b"x" * 5000)
    if ill == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root writes everywhere")
        folder.chmod(0o500)
    store = open_store()
    tokens = text(2, 2 * BLOCK)
    keep(store, tokens)
    assert served(store, tokens) == (tokens, {"ram"})
    stored(store)
    if ill not in ("deleted",):
        assert store.report().problem
        assert not folder.is_dir() or upkeep_fails(folder)


def upkeep_fails(folder: Path) -> bool:
    with pytest.raises(IndexUnusable):
        upkeep.stats(folder)
    return True


def test_a_deleted_folder_is_made_again_while_running(open_store: Callable[..., Store], folder: Path) -> None:
    store = open_store()
    keep(store, text(1, BLOCK))
    wait_written(store)
    shutil.rmtree(folder)
    keep(store, text(2, BLOCK))
    wait_written(store)
    assert upkeep.stats(folder).blocks == 1


def test_a_full_disk_costs_nothing_but_time(open_store: Callable[..., Store], folder: Path) -> None:
    store, tokens = open_store(), text(1, 2 * BLOCK)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        keep(store, tokens)
        wait_written(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.report().problem
    assert served(store, tokens) == (tokens, {"ram"})
    assert not list(folder.glob("*/*"))


def wait_written(store: Store) -> None:
    deadline = time.monotonic() + 120
    while any(node.writing for node in store._by_key.values()):
        store.settle()
        time.sleep(0.01)
        assert time.monotonic() < deadline


def test_a_sweep_removes_what_is_nobodys(open_store: Callable[..., Store], folder: Path) -> None:
    store = open_store()
    for seed in range(3):
        keep(store, text(seed, BLOCK))
    stored(store)
    (folder / "ab").mkdir(exist_ok=True)
    (folder / "ab" / ("ab" * 32 + ".kv")).write_bytes(b"x" * 500)
    (folder / "ab" / ("ab" * 32 + ".0.part")).write_bytes(b"x" * 70)
    next(p for p in folder.glob("*/*.kv") if p.stat().st_size > 500).unlink()
    found = upkeep.sweep(folder)
    assert (found.missing, found.orphans, found.orphan_bytes) == (1, 2, 570)
    assert upkeep.sweep(folder) == upkeep.Swept(2, 0, 0, 0, 0)
    assert upkeep.clear(folder).blocks == 2
    assert not list(folder.glob("*/*.kv"))


@pytest.mark.parametrize("ram", [0, BLOCK * BYTES // 2, 3 * BLOCK * BYTES], ids=["none", "half a block", "three"])
def test_small_budgets_still_reach_the_disk(open_store: Callable[..., Store], ram: int) -> None:
    store, tokens = open_store(ram=ram), text(1, 2 * BLOCK)
    keep(store, tokens)
    wait_written(store)
    keep(store, tokens)
    wait_written(store)
    assert served(store, tokens)[0] == tokens
