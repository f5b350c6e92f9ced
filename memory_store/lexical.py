"""The lexical index of a store: BM25 in memory, derived from the texts, beside the durable full-text table.

A namespace and words enter, memory numbers with scores leave. Everything in a question is a word: there is no syntax.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import is_
from pathlib import Path
from threading import Lock

import numpy as np

from memory_store import bm25, index_file, log, postings, words_file
from memory_store.behind import Behind
from memory_store.dbfile import Connection
from memory_store.errors import InvalidMemory
from memory_store.postings import Ints, Scores, Segment
from memory_store.store import Store
from memory_store.words import Words

# Taken in while a search may have to wait.
FOLLOWED_AT_ONCE = 32
REBUILT_AT_ONCE = 2048
# A search merges no more than so many texts, and so many small segments slow it down.
MERGED_BY_SEARCH = 256
MOST_LOOSE = 8
# A segment is merged with its neighbour when it is not this many times smaller: writes cost a logarithm, not a rebuild.
TIMES_SMALLER = 4
MOST_QUERY_TERMS = 64
SAVE_ROWS = 65_536
LONGEST_TRACE = 14
COMPARED = 200
"""So many texts are read again to see whether the index has them right."""
_STOP = """a an and are as at be been but by can could did do does for from had has have how i if in into is it its
me my no not of on or our she so than that the their them then there these they this to was we were what when where
which who whom whose why will with would you your he her him his about any all"""


class LexicalIndex:
    """Search by words. Any thread may search; searches never wait for writes.

    `folder` holds its file (None: memory only, as an encrypted store needs). Where another program uses the folder,
    this one works in memory.
    """

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        self._store = store
        self._descriptor = None if folder is None else index_file.lock(folder / "words")
        self._folder = None if folder is None or self._descriptor is None else folder / "words"
        self._words = Words()
        self._stop = frozenset(term for terms in self._words.terms([_STOP]) for term in terms)
        self._segments: dict[int, tuple[Segment, ...]] = {}
        self._spaces: dict[str, int] = {}
        self._unsaved = self._loose = 0
        # Held for milliseconds; whoever needs both takes the tidying first.
        self._lock, self._tidying = Lock(), Lock()
        self._behind = Behind(store, self._lock, self._taken, self.catch_up, self._left)
        with store.reading() as connection:
            salt = connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0]
            last = log.last_seq(connection)
        self._stamp = salt.hex()
        saved = None if self._folder is None else words_file.load(self._folder, self._stamp)
        if saved is not None and saved[0] <= last:
            self._behind.seq, self._segments = saved
        store.follow(self._behind.told)
        self.catch_up()

    def search(self, namespace: str, text: str, k: int) -> tuple[Ints, Scores]:
        """At most `k` numbers by BM25, best first, equal scores by number; all scores above 0.

        The most frequent English words count only where the question has nothing else.
        """
        if k < 1:
            raise InvalidMemory(f"no search for {k} hits", "ask for one at least")
        with self._store.reading() as connection:
            self._behind.look(connection)
            if namespace not in self._spaces:
                self._spaces = {name: number for number, name in connection.execute("SELECT id, name FROM namespace")}
        terms = list(dict.fromkeys(self._words.terms([text])[0]))
        asked = [term for term in terms if term not in self._stop] or terms
        return bm25.search(self._segments.get(self._spaces.get(namespace, -1), ()), asked[:MOST_QUERY_TERMS], k)

    def catch_up(self) -> None:
        """Take in all that the log has. Safe to call at any time."""
        more = True
        while more:
            with self._store.reading() as connection, self._lock:
                more = self._follow(connection)
            self._left()
            self._store.courtesy.give_way()
        self._tidy()

    def fits(self) -> bool:
        """Whether it has each text of the store and no other, and of some hundred of them the very terms."""
        self.catch_up()
        with self._lock, self._store.reading() as connection:
            while self._follow(connection):
                pass
            held = [
                (space, int(num))
                for space, parts in self._segments.items()
                for part in parts
                for num in part.nums[part.nums >= 0]
            ]
            if sorted(held) != connection.execute("SELECT namespace, num FROM memory ORDER BY 1, 2").fetchall():
                return False
            return all(self._says(connection, *each) for each in held[:: max(1, len(held) // COMPARED)])

    def _says(self, connection: Connection, space: int, num: int) -> bool:
        (text,) = connection.execute("SELECT text FROM memory WHERE num = ?", (num,)).fetchone()
        part = next(part for part in self._segments[space] if num in part.nums)
        doc = int(np.flatnonzero(part.nums == num)[0])
        return all(doc in part.docs[part.run(term)] for term in set(self._words.terms([text])[0]))

    def close(self) -> None:
        """Save, and leave the folder to others. Before the store is closed."""
        self._store.unfollow(self._behind.told)
        self.catch_up()
        with self._tidying:
            self._save()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def traces(self, nums: Sequence[int]) -> Sequence[bytes]:
        """The terms that no other memory has, as the file lists them; longer ones share parts with others."""
        gone = np.array(nums, np.int64)
        own, others = set[str](), set[str]()
        for part in (part for parts in self._segments.values() for part in parts):
            mine, shared = postings.terms_of(part, gone)
            own, others = own | mine, others | shared
        return [f"\n{term}\n".encode() for term in sorted(own - others) if len(term.encode()) <= LONGEST_TRACE]

    def erase(self, nums: Sequence[int]) -> None:
        """Nothing is left of the words, neither in memory nor in the file."""
        self.catch_up()
        with self._tidying:
            self._unsaved += 1
            self._save()

    def files(self) -> Sequence[Path]:
        return () if self._folder is None else (self._folder / words_file.NAME,)

    def _save(self) -> None:
        """`_tidying` is held."""
        if self._folder is not None and self._unsaved:
            with self._lock:
                seq, segments, self._unsaved = self._behind.seq, dict(self._segments), 0
            words_file.save(self._folder, self._stamp, seq, segments)

    def _left(self) -> None:
        if self._loose >= MOST_LOOSE:
            self._tidy()

    def _taken(self, connection: Connection) -> bool:
        return self._follow(connection, by_search=True)

    def _follow(self, connection: Connection, by_search: bool = False) -> bool:
        """One piece of the log; False where there is none. The lock is held."""
        changes = log.piece(connection, self._behind.seq, FOLLOWED_AT_ONCE)
        if not changes:
            return False
        if any(change.op == "embedder" for change in changes):
            self._rebuild(connection)
            return True
        self._add(connection, [change.num for change in changes if change.op == "add"], by_search)
        gone = np.array([change.num for change in changes if change.op == "erase"], np.int64)
        if len(gone):
            self._spaces = {}
            for space, parts in list(self._segments.items()):
                self._segments[space] = postings.weighed([postings.without(part, gone) for part in parts])
        self._behind.seq = changes[-1].seq
        self._unsaved += len(changes)
        return True

    def _tidy(self) -> None:
        """Merge small segments, and save now and then. Searches go on meanwhile."""
        with self._tidying:
            self._loose = 0
            for space in list(self._segments):
                while len(small := _unmerged(parts := self._segments.get(space, ()))) > 1:
                    before = parts[: len(parts) - len(small)]
                    merged = postings.merge(small, self._store.courtesy.give_way)
                    self._put(space, small, postings.weighed([*before, merged])[-1])
            if self._unsaved >= max(SAVE_ROWS, self._behind.seq // 4):
                self._save()

    def _put(self, space: int, old: tuple[Segment, ...], new: Segment) -> None:
        """In place of the old ones, unless one of them was changed meanwhile."""
        with self._lock:
            parts = self._segments.get(space, ())
            at = next((at for at, part in enumerate(parts) if part is old[0]), len(parts))
            end = at + len(old)
            if len(parts) >= end and all(map(is_, parts[at:end], old)):
                self._segments[space] = postings.weighed([*parts[:at], new, *parts[end:]])

    def _rebuild(self, connection: Connection) -> None:
        self._segments, self._spaces, self._behind.seq = {}, {}, log.last_seq(connection)
        nums = [num for (num,) in connection.execute("SELECT num FROM memory ORDER BY num")]
        for start in range(0, len(nums), REBUILT_AT_ONCE):
            self._add(connection, nums[start : start + REBUILT_AT_ONCE])
        self._unsaved += len(nums) + 1

    def _add(self, connection: Connection, nums: list[int], by_search: bool = False) -> None:
        marks = ",".join("?" * len(nums))
        sql = f"SELECT namespace, num, text FROM memory WHERE num IN ({marks}) ORDER BY num"
        rows = connection.execute(sql, nums).fetchall()
        by_space: dict[int, tuple[list[int], list[list[str]]]] = {}
        for (space, num, _), found in zip(rows, self._words.terms([text for _, _, text in rows]), strict=True):
            mine = by_space.setdefault(space, ([], []))
            mine[0].append(num)
            mine[1].append(found)
        for space, (numbers, texts) in by_space.items():
            parts = (*self._segments.get(space, ()), postings.segment(numbers, texts))
            small = _unmerged(parts, MERGED_BY_SEARCH)
            if by_search and len(small) > 1:
                parts = (*parts[: len(parts) - len(small)], postings.merge(small))
            self._segments[space] = postings.weighed(parts)
            self._loose += 1


def _unmerged(parts: tuple[Segment, ...], most: int | None = None) -> tuple[Segment, ...]:
    """The last segments that are to become one, with at most so many texts: each is to outweigh all behind it."""
    first, behind = len(parts), 0
    for at in reversed(range(len(parts))):
        texts = len(parts[at].nums)
        if most is not None and behind + texts > most:
            break
        if texts < TIMES_SMALLER * behind:
            first = at
        behind += texts
    return parts[first:]
