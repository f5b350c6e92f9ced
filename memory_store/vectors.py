"""The vector index of a store: the nearest memories of a namespace, derived from the file and never the truth.

A unit vector enters, memory numbers with cosines leave. It follows the store's log; what it loses it makes again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Literal

import numpy as np
import numpy.typing as npt

from memory_store import index_file, log, shelving, vector_rows
from memory_store.behind import Behind
from memory_store.codecs import Codes, Int8Codec
from memory_store.dbfile import Connection
from memory_store.embed import Vectors
from memory_store.errors import InvalidMemory
from memory_store.nibbles import NibbleSketch
from memory_store.pages import PAGE_ROWS, Numbers, PagePool
from memory_store.shelf import Positions, Shelf, Span, highest, likeliest, spans
from memory_store.signs import SignSketch
from memory_store.store import Store

Scores = npt.NDArray[np.float32]
Tier = Literal["int8", "binary"]

FLAT_ROWS = 13 * PAGE_ROWS
# Times `flat_rows` in one segment: a longer one would be long in the making.
MOST_UNITS = 64
SAVE_ROWS = 65_536
REBUILT_AT_ONCE = 2048
# Taken in while a search may have to wait.
FOLLOWED_AT_ONCE = 256
LOOKASIDE = 64
# So many more than asked for are compared by their true vectors, and so many a hit, and beyond, by int8 before that.
COMPARED = 10
_SKETCHED = {"int8": (2, 160), "binary": (6, 1140)}
_SKETCHES: dict[Tier, shelving.Make] = {"int8": NibbleSketch, "binary": SignSketch}


class VectorIndex:
    """Search by cosine. Any thread may search; searches never wait for writes.

    `folder` holds its files (None: memory only, as an encrypted store needs). Where another program uses the folder,
    this one works in memory. Of a namespace above `flat_rows` rows sketches are made in the background, and held in
    memory; `tier` "binary" takes a third of that memory, and six times the time.
    """

    def __init__(
        self, store: Store, folder: Path | None = None, *, tier: Tier = "int8", flat_rows: int = FLAT_ROWS
    ) -> None:
        self._store = store
        self._embedder = store.own_embedder()
        self._codec = Int8Codec(self._embedder.width)
        self._sketched, self._made, self._lean = _SKETCHED[tier], _SKETCHES[tier], tier == "binary"
        self._unit = max(1, flat_rows // PAGE_ROWS)
        self._lock, self._saving, self._rebuild_owed = Lock(), Lock(), False
        self._behind = Behind(store, self._lock, self._follow, self.catch_up)
        self._descriptor = None if folder is None else index_file.lock(folder)
        self._folder = None if self._descriptor is None else folder
        self._pool = PagePool(self._folder, self._codec.row_bytes)
        self._shelves: dict[int, Shelf] = {}
        self._spaces: dict[str, int] = {}
        self._unsaved = 0
        self._building: set[int] = set()
        self._threads: dict[int, Thread] = {}
        self._seen: OrderedDict[tuple[object, ...], tuple[Numbers, Scores]] = OrderedDict()
        with store.reading() as connection:
            salt = connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0]
            last = log.last_seq(connection)
        self._stamp = f"{salt.hex()}:{self._embedder.digest}:{self._codec.row_bytes}"
        self._load(last)
        store.follow(self._behind.told)
        self.catch_up()

    def search(self, namespace: str, vector: Vectors, k: int, exact: bool = False) -> tuple[Numbers, Scores]:
        """At most `k` numbers, best first, equal scores by number. `vector`: (width,), of length one.

        `exact` compares all rows of the namespace; else about 98 of 100 of the true hits are found.
        """
        if vector.shape != (self._embedder.width,) or k < 1 or not np.isfinite(vector).all():
            raise InvalidMemory(f"no search for {k} hits with {vector.shape} numbers", "ask with the store's embedder")
        query = np.ascontiguousarray(vector, np.float32)
        with self._store.reading() as connection:
            self._behind.look(connection)
            if self._rebuild_owed:
                self.catch_up()
            space = self._space(connection, namespace)
            shelf = self._shelves.get(space)
            if shelf is None:
                return np.zeros(0, np.int64), np.zeros(0, np.float32)
            key = (space, shelf.sketched, shelf.rows, k, exact, self._behind.seq, query.tobytes())
            known = self._seen.get(key)
            if known is None:
                known = self._search(connection, shelf, query, k, exact)
                self._seen[key] = known
                while len(self._seen) > LOOKASIDE:
                    with suppress(KeyError):
                        self._seen.popitem(last=False)
            return known

    def catch_up(self) -> None:
        """Take in all that the log has. Safe to call at any time."""
        more = True
        while more:
            with self._store.reading() as connection, self._saving:
                with self._lock:
                    more = self._follow(connection, may_rebuild=True)
                if self._unsaved >= SAVE_ROWS:
                    self._save()
            self._store.courtesy.give_way()

    def wait(self) -> None:
        """Until no sketch is being made."""
        while threads := [thread for thread in list(self._threads.values()) if thread.is_alive()]:
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Save, and leave the folder to others. Before the store is closed."""
        self.wait()
        self._store.unfollow(self._behind.told)
        with self._saving:
            self._save()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def fits(self) -> bool:
        """Whether each vector of the store lies in the pages as it is coded; reads them all."""
        self.wait()
        self.catch_up()
        with self._lock, self._store.reading() as connection:
            count = 0
            for shelf in self._shelves.values():
                for page, rows in shelf.everything():
                    nums = self._pool.maps.nums[page, :rows]
                    there = np.flatnonzero(nums >= 0)
                    there = there[np.argsort(nums[there])]
                    codes, factors = self._pool.rows(np.full(len(there), page, np.int64), there, among=1)
                    found, halves = vector_rows.get(connection, self._embedder, nums[there].tolist())
                    made, scales = self._codec.encode(halves.astype(np.float32))
                    if found != nums[there].tolist() or (made != codes).any() or (scales != factors).any():
                        return False
                    count += len(found)
            return count == sum(len(nums) for nums, _ in vector_rows.scan(connection, self._embedder))

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
        whole = alone.all(axis=1)
        partly = np.argwhere(alone & ~np.expand_dims(whole, 1)).tolist()
        return [*map(bytes, found[whole]), *(found[row, word : word + 2].tobytes() for row, word in partly)]

    def erase(self, nums: Sequence[int]) -> None:
        """Wipe what the log says is gone, in pages that nobody uses too. Durable at return."""
        self.wait()
        self.catch_up()
        with self._saving:
            with self._lock:
                self._seen.clear()
                for space, shelf in self._shelves.items():
                    # Made anew without them: until then their few bits stay in memory, though no search finds them.
                    whole = tuple(segment for segment in shelf.segments if not len(segment.gone))
                    self._shelves[space] = replace(shelf, segments=whole)
                    self._sketch_soon(space)
            self._save()
            with self._lock:
                self._pool.wipe_free()
            self._pool.flush()

    def files(self) -> Sequence[Path]:
        return () if self._folder is None else (*self._pool.files(), self._folder / index_file.NAME)

    def _search(
        self, connection: Connection, shelf: Shelf, query: Vectors, k: int, exact: bool
    ) -> tuple[Numbers, Scores]:
        nums = self._certain(shelf, query, k) if exact else self._likely(shelf, query, k)
        found, halves = vector_rows.get(connection, self._embedder, nums.tolist())
        # In double precision, so that a score does not depend on what else is compared with it.
        products = (halves.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        numbers = np.array(found, np.int64)
        order = np.lexsort((numbers, -products))[:k]
        return numbers[order], products[order]

    def _likely(self, shelf: Shelf, query: Vectors, k: int) -> Numbers:
        """Those that are to be compared by their true vectors: the best by int8 of the best by their sketches."""
        positions, scores = self._scan(shelf, shelf.unsketched(), query)
        if shelf.segments:
            near = likeliest(shelf, query, self._sketched[0] * k + self._sketched[1])
            codes, factors = self._pool.rows(*shelf.places(near), among=len(shelf.pages))
            positions = np.concatenate([positions, near])
            scores = np.concatenate([scores, self._codec.decode(codes, factors) @ query])
        # Wiped rows are among them, all of which have 0.
        nums = shelf.nums(self._pool.maps, positions[highest(scores, k + COMPARED)])
        if (nums < 0).any():
            nums = shelf.nums(self._pool.maps, positions)
            living = nums >= 0
            nums = nums[living][highest(scores[living], k + COMPARED)]
        if self._lean:
            self._pool.release()
        return nums

    def _certain(self, shelf: Shelf, query: Vectors, k: int) -> Numbers:
        """All that may be among the best."""
        positions, scores = self._scan(shelf, list(range(len(shelf.pages))), query)
        maps = self._pool.maps
        nums = shelf.nums(maps, positions)
        margins = self._codec.margins(maps.factors[shelf.places(positions)], query)
        self._pool.release()
        alive = nums >= 0
        low = (scores - margins)[alive]
        least = np.partition(low, max(0, len(low) - k))[max(0, len(low) - k)] if len(low) else 0
        return nums[alive & (scores + margins >= least)]

    def _scan(self, shelf: Shelf, ats: list[int], query: Vectors) -> tuple[Positions, Scores]:
        """Every row of the pages in these places of the shelf, compared by int8."""
        if not ats:
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        maps, places = self._pool.maps, shelf.at(ats)
        factors = np.concatenate([maps.factors[page, :count] for page, count in places])
        scores = self._codec.scorer(query)([maps.codes[page, :count] for page, count in places], factors)
        # All but the last are full.
        starts = np.repeat(np.array(ats) * PAGE_ROWS, [count for _, count in places])
        return starts + np.arange(len(scores)) % PAGE_ROWS, scores

    def _space(self, connection: Connection, namespace: str) -> int:
        if namespace not in self._spaces:
            self._spaces = {name: number for number, name in connection.execute("SELECT id, name FROM namespace")}
        return self._spaces.get(namespace, -1)

    def _follow(self, connection: Connection, may_rebuild: bool = False) -> bool:
        """One piece of the log; False where there is none. `_lock` is held, and `_saving` where it may rebuild."""
        changes = log.piece(connection, self._behind.seq, FOLLOWED_AT_ONCE)
        if not changes:
            return False
        if any(change.op == "embedder" for change in changes):
            self._rebuild_owed = not self._building and not may_rebuild
            if self._building or not may_rebuild:
                # Who builds comes here again when it has done.
                return False
            self._shelves, self._behind.seq = {}, 0
            return self._rebuild(connection)
        self._add(connection, [change.num for change in changes if change.op == "add"])
        gone = np.array([change.num for change in changes if change.op == "erase"], np.int64)
        if len(gone):
            self._spaces = {}
            for space, shelf in list(self._shelves.items()):
                self._shelves[space] = shelving.wipe(self._pool, shelf, gone)
        self._behind.seq = changes[-1].seq
        self._unsaved += len(changes)
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
        self._shelves[space] = shelving.append(self._pool, self._codec, self._shelves.get(space) or Shelf(), nums, rows)
        self._sketch_soon(space)

    def _missing(self, shelf: Shelf) -> list[Span]:
        have = {segment.span for segment in shelf.segments}
        return [span for span in spans(shelf.full, self._unit, MOST_UNITS) if span not in have]

    def _sketch_soon(self, space: int) -> None:
        if space not in self._building and self._missing(self._shelves[space]):
            thread = Thread(target=self._sketch, args=(space,), name="memory-sketching", daemon=True)
            self._building.add(space)
            thread.start()
            self._threads[space] = thread

    def _sketch(self, space: int) -> None:
        while True:
            with self._lock:
                shelf = self._shelves[space]
                missing = self._missing(shelf)
                if not missing:
                    self._building.remove(space)
                    break
            made = shelving.sketch(self._pool, self._codec, shelf, missing[0], self._made)
            with self._lock:
                self._shelves[space] = shelving.installed(self._pool, self._shelves[space], made)
                self._pool.release()
        self._behind.told(None)

    def _load(self, last: int) -> None:
        saved = None if self._folder is None else index_file.load(self._folder, self._stamp)
        if saved is not None and saved[0] <= last:
            self._behind.seq, self._shelves = saved
        if not self._pool.holds(page for shelf in self._shelves.values() for page, _ in shelf.everything()):
            self._behind.seq, self._shelves = 0, {}
        self._pool.begin(page for shelf in self._shelves.values() for page, _ in shelf.everything())
        living = sum(int((self._pool.maps.nums[shelf.pages] >= 0).sum()) for shelf in self._shelves.values())
        if 2 * living < sum(shelf.rows for shelf in self._shelves.values()):
            # More holes than rows: it is made anew without them.
            self._behind.seq, self._shelves = 0, {}
        if not self._shelves and self._folder is not None:
            index_file.drop(self._folder)
            self._pool.begin(())
        for space in self._shelves:
            self._sketch_soon(space)
        self.wait()

    def _rebuild(self, connection: Connection) -> bool:
        """Everything of this embedder, in the order of the numbers."""
        self._pool.restart()
        self._behind.seq = log.last_seq(connection)
        for nums, _ in vector_rows.scan(connection, self._embedder, batch=REBUILT_AT_ONCE):
            self._add(connection, nums)
        return False

    def _save(self) -> None:
        """`_saving` is held, so that no page is used anew meanwhile; rows may come and be wiped."""
        if self._folder is not None:
            with self._lock:
                seq, shelves, self._unsaved = self._behind.seq, dict(self._shelves), 0
            self._pool.flush()
            index_file.save(self._folder, self._stamp, seq, shelves)


def _words(codes: Codes) -> npt.NDArray[np.uint64]:
    """Rows of bytes as rows of 8-byte words."""
    whole = codes.shape[1] // 8 * 8
    return np.ascontiguousarray(codes[:, :whole]).view(np.uint64)
