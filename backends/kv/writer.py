"""Writes blocks to the SSD behind the engine's back: one thread per child, one bounded queue.

Nodes and their content enter; what became of each is put on `results`. A disk that fails is left alone for a while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from backends.kv import block_file
from backends.kv.index import Index, IndexUnusable, Row

PAUSE_S = 30.0
"""Seconds of rest after the disk refused: full, read-only or gone."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a block: on the SSD now, or `short` of the shared cap, or neither because the disk failed."""

    key: bytes
    stored: bool
    short: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """Work on the index; `key` is the block whose writing it is."""

    do: Callable[[Index], Written | None]
    key: bytes | None = None


class Writer:
    """`write` and the rest return at once. `problem` is why nothing is written at present, '' where all is well."""

    def __init__(self, folder: Path, cap: int) -> None:
        self.problem = ""
        self.results: SimpleQueue[Written] = SimpleQueue()
        self._folder = folder
        self._cap = cap
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._index: Index | None = None
        self._rest_until = 0.0
        self._thread = threading.Thread(target=self._run, name="kv-writer", daemon=True)
        self._thread.start()

    def write(self, row: Row, payload: bytearray) -> None:
        """Put a block on the SSD; `results` says whether it got there."""
        self._orders.put(_Order(lambda index: self._store(index, row, payload), row.key))

    def drop(self, key: bytes) -> None:
        """Remove a block that is damaged or of no more use."""

        def remove(index: Index) -> None:
            block_file.place(self._folder, key).unlink(missing_ok=True)
            index.forget([key])

        self._orders.put(_Order(remove))

    def then(self, call: Callable[[], None]) -> None:
        """Call back when all that was ordered before is done."""
        self._orders.put(_Order(lambda _: call()))

    def touch(self, uses: dict[bytes, int]) -> None:
        """Note that blocks were used."""
        now = time.time()
        self._orders.put(_Order(lambda index: index.touch(uses, now)))

    def lease(self, keys: list[bytes]) -> None:
        """Keep blocks from eviction until they are read."""
        self._orders.put(_Order(lambda index: index.lease(keys, os.getpid())))

    def close(self, seconds: float) -> None:
        """Do what is queued, for so many seconds at most."""
        self._orders.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            result = None if order.key is None else Written(order.key, False)
            try:
                result = order.do(self._opened()) or result
            except (OSError, IndexUnusable) as error:
                self._fail(str(getattr(error, "strerror", None) or error))
            if result is not None:
                self.results.put(result)
        if self._index is not None:
            self._index.close()

    def _opened(self) -> Index:
        if time.monotonic() < self._rest_until:
            raise IndexUnusable(self.problem)
        if self._index is not None and not self._index.current:
            self._index.close()
            self._index = None
        if self._index is None:
            self._index = Index(self._folder)
        self.problem = ""
        return self._index

    def _fail(self, problem: str) -> None:
        if time.monotonic() >= self._rest_until:
            self.problem, self._rest_until = problem, time.monotonic() + PAUSE_S

    def _store(self, index: Index, row: Row, payload: bytearray) -> Written:
        found = index.reserve(row, self._cap)
        if found != "reserved":
            return Written(row.key, found == "there", short=found == "full")
        try:
            block_file.write(block_file.place(self._folder, row.key), row.key, payload)
        except OSError:
            index.forget([row.key])
            raise
        index.commit(row.key)
        return Written(row.key, True)
