"""How far an index is behind the store, and who makes that up: writers leave a few entries to the next search.

Writes and searches enter, the index's own work is called. It knows nothing of what the index does with an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from memory_store import log
from memory_store.dbfile import Connection
from memory_store.errors import MemoryStoreError
from memory_store.store import Store

# So few new memories are left to the next search: together they cost a fraction of what each costs alone.
LEFT_TO_SEARCH = 32


class Behind:
    """Of one index. `seq`: the last entry that it has taken in, changed while `lock` is held."""

    def __init__(
        self,
        store: Store,
        lock: Lock,
        take: Callable[[Connection], bool],
        catch_up: Callable[[], None],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """`take` takes in a piece for a search, False where there is none, with `lock` held; `catch_up` takes in all.

        `left` is called where a writer has left its entries to the next search.
        """
        self._store, self._lock = store, lock
        self._take, self._catch_up, self._left = take, catch_up, left
        self.seq = self._owed = 0

    def told(self, seq: int | None) -> None:
        """After a write, as `Store.follow` calls it."""
        # The write has succeeded: what hinders the index is told by the next search.
        with suppress(MemoryStoreError):
            if seq is None or seq - self.seq > LEFT_TO_SEARCH:
                self._catch_up()
            else:
                self._owed = max(self._owed, seq)
                self._left()

    def look(self, connection: Connection) -> None:
        """Take in what writers left to this search, and a little of what other programs wrote."""
        last = log.last_seq(connection)
        if last <= self.seq or (self._owed <= self.seq and last <= self._store.written):
            return
        while self._lock.acquire(blocking=self.seq < self._owed):
            try:
                more = self._take(connection)
            finally:
                self._lock.release()
            if not more or self.seq >= self._owed:
                break
