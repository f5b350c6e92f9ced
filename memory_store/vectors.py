"""The vector index of a store: the nearest memories of a namespace, derived from the file and never the truth.

A unit vector enters, memory numbers with cosines leave. It follows the store's log; what it loses it makes again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Literal

import numpy as np
import numpy.typing as npt

from memory_store import index_file, log, shelving, vector_rows
from memory_store.clustering import cluster
from memory_store.codecs import Codes, codec
from memory_store.dbfile import Connection
from memory_store.embed import Vectors
from memory_store.errors import InvalidMemory, MemoryStoreError
from memory_store.pages import Numbers, PagePool
from memory_store.shelf import Shelf, probe
from memory_store.shelving import FOLD_ROWS, Bench
from memory_store.store import Store

Scores = npt.NDArray[np.float32]
Tier = Literal["int8", "binary"]

FLAT_ROWS = 49 * FOLD_ROWS
SAVE_ROWS = 64 * FOLD_ROWS
FOLLOWED_AT_ONCE = 2048
# What other programs wrote is taken in by searches: little at a time, so that none waits long.
FOLLOWED_BY_SEARCH = 128
LOOKASIDE = 64
FIRST_ROWS = 4096
_FACTOR = {"int8": (1, 20), "binary": (8, 120)}


class VectorIndex:
    """Search by cosine. Any thread may search; searches never wait for writes.

    `folder` holds its files (None: memory only, as an encrypted store needs). Where another program uses the folder,
    this one works in memory. `tier` "binary" takes a sixth of the memory of "int8", and more time. `flat_rows`: a
    namespace up to that size is read whole, a larger one is clustered in the background.
    """

    def __init__(
        self, store: Store, folder: Path | None = None, *, tier: Tier = "int8", flat_rows: int = FLAT_ROWS
    ) -> None:
        self._store = store
        self._embedder = store.own_embedder()
        self._codec = codec(tier, self._embedder.width)
        self._factor = _FACTOR[tier]
        self._flat = max(FOLD_ROWS, flat_rows - flat_rows % FOLD_ROWS)
        self._lock, self._descriptor = Lock(), None if folder is None else index_file.lock(folder)
        self._folder = None if self._descriptor is None else folder
        self._pool = PagePool(self._folder, self._codec.row_bytes)
        self._bench = Bench(self._pool, self._codec, self._fetch)
        self._shelves: dict[int, Shelf] = {}
        self._spaces: dict[str, int] = {}
        self._seq = self._unsaved = 0
        self._retired: list[int] = []
        self._building: dict[int, tuple[Thread, list[int]]] = {}
        self._seen: OrderedDict[tuple[object, ...], tuple[Numbers, Scores]] = OrderedDict()
        with store.reading() as connection:
            salt = connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0]
            last = log.last_seq(connection)
        self._stamp = f"{salt.hex()}:{self._embedder.digest}:{self._codec.name}:{self._flat}"
        self._load(last)
        store.follow(self._told)
        self.catch_up()

    def search(self, namespace: str, vector: Vectors, k: int, exact: bool = False) -> tuple[Numbers, Scores]:
        """At most `k` numbers, best first, equal scores by number. `vector`: (width,), of length one.

        `exact` compares all rows of the namespace; else about 98 of 100 of the true hits are found.
        """
        if vector.shape != (self._embedder.width,) or k < 1 or not np.isfinite(vector).all():
            raise InvalidMemory(f"no search for {k} hits with {vector.shape} numbers", "ask with the store's embedder")
        query = np.ascontiguousarray(vector, np.float32)
        with self._store.reading() as connection:
            if log.last_seq(connection) > self._seq and self._lock.acquire(blocking=False):
                try:
                    self._follow(connection, FOLLOWED_BY_SEARCH)
                finally:
                    self._lock.release()
            space = self._space(connection, namespace)
            shelf = self._shelves.get(space)
            if shelf is None:
                return np.zeros(0, np.int64), np.zeros(0, np.float32)
            key = (space, shelf.trained, shelf.rows, k, exact, self._seq, query.tobytes())
            known = self._seen.get(key)
            if known is None:
                known = self._search(connection, shelf, query, k, exact)
                self._seen[key] = known
                while len(self._seen) > LOOKASIDE:
                    with suppress(KeyError):
                        self._seen.popitem(last=False)
            return known

    def catch_up(self) -> None:
        """Take in all that the log has. Called by the store after each write, and safe to call at any time."""
        with self._lock:
            while True:
                with self._store.reading() as connection:
                    if not self._follow(connection):
                        break

    def wait(self) -> None:
        """Until no clustering is under way."""
        while threads := [thread for thread, _ in list(self._building.values())]:
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Save, and leave the folder to others. Before the store is closed."""
        self.wait()
        self._store.unfollow(self._told)
        with self._lock:
            self._save()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def traces(self, nums: Sequence[int]) -> Sequence[bytes]:
        """Pieces of the codes of these memories, but for those that another memory shares byte for byte."""
        gone, maps = np.array(nums, np.int64), self._pool.maps
        places = [place for shelf in self._shelves.values() for place in shelf.everything()]
        hits = [np.isin(maps.nums[page, :count], gone) for page, count in places]
        rows = [maps.codes[page, :count][hit] for (page, count), hit in zip(places, hits, strict=True) if hit.any()]
        if not rows:
            return ()
        found = _words(np.concatenate(rows))
        shared = np.zeros(found.shape, np.bool_)
        for (page, count), hit in zip(places, hits, strict=True):
            others = _words(maps.codes[page, :count][(maps.nums[page, :count] >= 0) & ~hit])
            for word in range(found.shape[1]):
                shared[:, word] |= np.isin(found[:, word], others[:, word])
        alone = ~(shared[:, :-1] & shared[:, 1:]) if found.shape[1] > 1 else ~shared
        return sorted({found[row, word : word + 2].tobytes() for row, word in zip(*np.nonzero(alone), strict=True)})

    def erase(self, nums: Sequence[int]) -> None:
        """Wipe what the log says is gone, in pages that nobody uses too. Durable at return."""
        self.wait()
        self.catch_up()
        with self._lock:
            self._seen.clear()
            self._save()
            self._pool.give(self._retired)
            self._retired = []
            self._pool.wipe_free()
            self._pool.flush()

    def files(self) -> Sequence[Path]:
        return () if self._folder is None else (*self._pool.files(), self._folder / index_file.NAME)

    def _told(self) -> None:
        # The write has succeeded: what hinders the index is told by the next search.
        with suppress(MemoryStoreError):
            self.catch_up()

    def _search(
        self, connection: Connection, shelf: Shelf, query: Vectors, k: int, exact: bool
    ) -> tuple[Numbers, Scores]:
        seen = probe(shelf, self._pool.maps, self._codec, query, everything=exact)
        nums, scores, factors = seen.nums, seen.scores, seen.factors
        if exact:
            margins = self._codec.margins(factors, query)
            least = np.partition(scores - margins, max(0, len(scores) - k))[max(0, len(scores) - k)] if len(nums) else 0
            nums = nums[scores + margins >= least]
        else:
            times, more = self._factor
            most = times * k + more
            nums = nums[_best(scores, most)]
        found, halves = vector_rows.get(connection, self._embedder, nums.tolist())
        # In double precision, so that a score does not depend on what else is compared with it.
        products = (halves.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        numbers = np.array(found, np.int64)
        order = np.lexsort((numbers, -products))[:k]
        return numbers[order], products[order]

    def _space(self, connection: Connection, namespace: str) -> int:
        if namespace not in self._spaces:
            self._spaces = {name: number for number, name in connection.execute("SELECT id, name FROM namespace")}
        return self._spaces.get(namespace, -1)

    def _fetch(self, nums: Sequence[int]) -> tuple[Numbers, Vectors]:
        with self._store.reading() as connection:
            found, halves = vector_rows.get(connection, self._embedder, nums)
        return np.array(found, np.int64), halves.astype(np.float32)

    def _follow(self, connection: Connection, most: int = FOLLOWED_AT_ONCE) -> bool:
        """One piece of the log; False where there is none. The lock is held."""
        changes = log.changes(connection, self._seq, most)
        if not changes:
            return False
        if any(change.op == "embedder" for change in changes):
            if self._building:
                # It comes here again when it has done.
                return False
            self._shelves, self._seq = {}, 0
            return self._rebuild(connection)
        self._add(connection, [change.num for change in changes if change.op == "add"])
        gone = np.array([change.num for change in changes if change.op == "erase"], np.int64)
        if len(gone):
            self._spaces = {}
            for space, shelf in list(self._shelves.items()):
                self._shelves[space] = shelving.wipe(self._bench, shelf, gone)
            for _, pending in self._building.values():
                pending += gone.tolist()
        self._seq = changes[-1].seq
        self._unsaved += len(changes)
        if self._unsaved >= SAVE_ROWS and not self._building:
            self._save()
        return True

    def _add(self, connection: Connection, nums: list[int]) -> None:
        numbers, halves = vector_rows.get(connection, self._embedder, nums)
        if not numbers:
            return
        marks = ",".join("?" * len(numbers))
        spaces = dict(connection.execute(f"SELECT num, namespace FROM memory WHERE num IN ({marks})", numbers))
        owner = np.array([spaces.get(num, -1) for num in numbers])
        for space in np.unique(owner[owner >= 0]).tolist():
            mine = np.flatnonzero(owner == space)
            self._append(space, np.array(numbers, np.int64)[mine], halves[mine].astype(np.float32))

    def _append(self, space: int, nums: Numbers, rows: Vectors) -> None:
        shelf = self._shelves.get(space) or Shelf(self._embedder.width)
        while len(nums):
            # In measures: where a clustering begins depends on the order of rows alone.
            room = FOLD_ROWS - shelf.arrived % FOLD_ROWS
            shelf = shelving.append(self._bench, shelf, nums[:room], rows[:room], fold=space not in self._building)
            self._shelves[space] = shelf
            nums, rows = nums[room:], rows[room:]
            due = shelf.trained * 2 or self._flat
            if shelf.arrived >= due and space not in self._building:
                self._begin(space, shelf)

    def _begin(self, space: int, shelf: Shelf) -> None:
        pending: list[int] = []
        thread = Thread(target=self._cluster, args=(space, shelf, pending), name="memory-clustering", daemon=True)
        self._building[space] = (thread, pending)
        thread.start()

    def _cluster(self, space: int, before: Shelf, pending: list[int]) -> None:
        bench = Bench(self._pool, self._codec, self._fetch)
        known = np.sort(before.numbers(self._pool.maps))
        try:
            made = cluster(bench, known, before.arrived)
        except MemoryStoreError:
            # Flat search goes on; the next doubling tries again.
            with self._lock:
                del self._building[space]
            return
        self._install(space, made, bench, known, pending)
        self._told()

    def _install(self, space: int, made: Shelf, bench: Bench, known: Numbers, pending: list[int]) -> None:
        with self._lock:
            now = self._shelves[space]
            since = np.setdiff1d(now.numbers(self._pool.maps), known)
            self._bench.retired += [*bench.retired, *(page for page, _ in now.everything())]
            if pending:
                made = shelving.wipe(self._bench, made, np.array(pending, np.int64))
            del self._building[space]
            self._shelves[space] = made
            self._append(space, *self._fetch(since.tolist()))

    def _load(self, last: int) -> None:
        saved = None if self._folder is None else index_file.load(self._folder, self._stamp)
        if saved is not None and saved[0] <= last:
            self._seq, self._shelves = saved
        self._pool.begin(page for shelf in self._shelves.values() for page, _ in shelf.everything())

    def _rebuild(self, connection: Connection) -> bool:
        """Everything of this embedder, in the order of the numbers."""
        self._pool.restart()
        self._retired, self._bench.retired = [], []
        self._seq = log.last_seq(connection)
        for nums, _ in vector_rows.scan(connection, self._embedder, batch=FOLLOWED_AT_ONCE):
            self._add(connection, nums)
        return False

    def _save(self) -> None:
        if self._folder is None or self._building:
            return
        self._pool.flush()
        index_file.save(self._folder, self._stamp, self._seq, self._shelves)
        # Readers of the pages that the save before last retired have long gone.
        self._pool.give(self._retired)
        self._retired, self._bench.retired = self._bench.retired, []
        self._unsaved = 0


def _best(scores: Scores, most: int) -> npt.NDArray[np.intp]:
    """Where the `most` highest are, all of them and none else."""
    if len(scores) <= most:
        return np.arange(len(scores))
    # The first rows are those of the tail and of the nearest pages: what is below their best need not be sorted.
    first = scores[: max(FIRST_ROWS, 4 * most)]
    least = np.partition(first, len(first) - most)[len(first) - most]
    high = np.flatnonzero(scores >= least)
    return high[np.argpartition(scores[high], len(high) - most)[len(high) - most :]]


def _words(codes: Codes) -> npt.NDArray[np.uint64]:
    """Rows of bytes as rows of 8-byte words."""
    whole = codes.shape[1] // 8 * 8
    return np.ascontiguousarray(codes[:, :whole]).view(np.uint64)
