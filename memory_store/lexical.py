"""The lexical index of a store: BM25 in memory, derived from the texts, beside the durable full-text table.

A namespace and words enter, memory numbers with scores leave. Everything in a question is a word: there is no syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np

from memory_store import log, postings
from memory_store.dbfile import Connection
from memory_store.errors import InvalidMemory, MemoryStoreError
from memory_store.postings import Ints, Scores, Segment
from memory_store.store import Store
from memory_store.words import Words

FOLLOWED_AT_ONCE = 2048
# A segment is merged with its neighbour when it is not this many times smaller: writes cost a logarithm, not a rebuild.
TIMES_SMALLER = 4
MOST_QUERY_TERMS = 64
_STOP = """a an and are as at be been but by can could did do does for from had has have how i if in into is it its
me my no not of on or our she so than that the their them then there these they this to was we were what when where
which who whom whose why will with would you your he her him his about any all"""


class LexicalIndex:
    """Search by words. Any thread may search; searches never wait for writes. It has no files of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._words = Words()
        self._stop = frozenset(term for terms in self._words.terms([_STOP]) for term in terms)
        self._segments: dict[int, tuple[Segment, ...]] = {}
        self._spaces: dict[str, int] = {}
        self._seq = 0
        self._lock = Lock()
        store.follow(self._told)
        self.catch_up()

    def search(self, namespace: str, text: str, k: int) -> tuple[Ints, Scores]:
        """At most `k` numbers by BM25, best first, equal scores by number; all scores above 0.

        The most frequent English words count only where the question has nothing else.
        """
        if k < 1:
            raise InvalidMemory(f"no search for {k} hits", "ask for one at least")
        with self._store.reading() as connection:
            if log.last_seq(connection) > self._seq and self._lock.acquire(blocking=False):
                try:
                    self._follow(connection)
                finally:
                    self._lock.release()
            if namespace not in self._spaces:
                self._spaces = {name: number for number, name in connection.execute("SELECT id, name FROM namespace")}
        terms = list(dict.fromkeys(self._words.terms([text])[0]))
        asked = [term for term in terms if term not in self._stop] or terms
        return postings.search(self._segments.get(self._spaces.get(namespace, -1), ()), asked[:MOST_QUERY_TERMS], k)

    def catch_up(self) -> None:
        """Take in all that the log has. Called by the store after each write, and safe to call at any time."""
        with self._lock:
            more = True
            while more:
                with self._store.reading() as connection:
                    more = self._follow(connection)

    def close(self) -> None:
        self._store.unfollow(self._told)

    def traces(self, nums: Sequence[int]) -> Sequence[bytes]:
        return ()

    def erase(self, nums: Sequence[int]) -> None:
        """Nothing is left of the words in memory either."""
        self.catch_up()

    def files(self) -> Sequence[Path]:
        return ()

    def _told(self) -> None:
        # The write has succeeded: what hinders the index is told by the next search.
        with suppress(MemoryStoreError):
            self.catch_up()

    def _follow(self, connection: Connection) -> bool:
        """One piece of the log; False where there is none. The lock is held."""
        changes = log.changes(connection, self._seq, FOLLOWED_AT_ONCE)
        if not changes:
            return False
        self._add(connection, [change.num for change in changes if change.op == "add"])
        gone = np.array([change.num for change in changes if change.op == "erase"], np.int64)
        if len(gone):
            self._spaces = {}
            for space, parts in list(self._segments.items()):
                self._segments[space] = tuple(postings.without(part, gone) for part in parts)
        self._seq = changes[-1].seq
        return True

    def _add(self, connection: Connection, nums: list[int]) -> None:
        marks = ",".join("?" * len(nums))
        sql = f"SELECT namespace, num, text FROM memory WHERE num IN ({marks}) ORDER BY num"
        rows = connection.execute(sql, nums).fetchall()
        terms = self._words.terms(text for _, _, text in rows)
        by_space: dict[int, tuple[list[int], list[list[str]]]] = {}
        for (space, num, _), found in zip(rows, terms, strict=True):
            mine = by_space.setdefault(space, ([], []))
            mine[0].append(num)
            mine[1].append(found)
        for space, (numbers, texts) in by_space.items():
            parts = [*self._segments.get(space, ()), postings.segment(numbers, texts)]
            while len(parts) > 1 and len(parts[-2].nums) < TIMES_SMALLER * len(parts[-1].nums):
                parts[-2:] = [postings.merge(parts[-2:])]
            self._segments[space] = tuple(parts)
