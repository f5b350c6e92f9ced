"""The daemon's one open memory: made at its first use, because many never use it, and its indexes bring numpy.

Requests enter, memories, hits and receipts leave. Every method blocks: call them in a thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from localai.config import Config
from localai.errors import BadRequest
from localai.frozen_notes import FrozenNotes
from localai.pins import Pins
from memory_store.errors import InvalidMemory, MemoryStoreError
from memory_store.records import Added, Author, Memory, NewMemory

if TYPE_CHECKING:
    from localai.open_memory import OpenMemory
    from memory_store.doctor import Diagnosis
    from memory_store.embed import Embedder
    from memory_store.erase import Receipt
    from memory_store.export import Record
    from memory_store.feedback import Feedback
    from memory_store.recall import Hit, Question
    from memory_store.rows import Filter
    from memory_store.store import Store
    from memory_store.trust import Verdict

_log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
"""So long it is not looked again whether an embedding model that was missing is there."""
PINNED = "pinned"
"""The tag of a pinned memory, which lists and exports show."""


class Memories:
    """One file in one home."""

    def __init__(self, config: Config, retry_s: float = RETRY_SECONDS) -> None:
        self.config, self._retry_s = config, retry_s
        self.path = config.home / "memory.db"
        self._lock = Lock()
        self._open: OpenMemory | None = None
        self._looking: Thread | None = None
        self._again = 0.0
        self.embedder: Embedder | None = None
        self.frozen = FrozenNotes(config.home / "recalled.db")
        self.pins = Pins(config.home / "pins.json")

    @property
    def store(self) -> Store:
        """Raises what `Store` raises where the file cannot be used."""
        return self._parts().store

    @property
    def empty(self) -> bool:
        """True where nothing was ever remembered; costs nothing then."""
        return self._open is None and not self.path.exists()

    @property
    def fallback(self) -> str | None:
        """What the last answers of the memory did without, and why; None where nothing failed."""
        opened = self._open
        return (opened.fallback or None) if opened is not None else None

    def stamp(self) -> tuple[int, int]:
        """Changes whenever anything does from which recall is made; (0, 0) where nothing was ever remembered."""
        if self.empty:
            return 0, 0
        from memory_store import learned, log

        with self.store.reading() as connection:
            return log.last_seq(connection), learned.version(connection)

    def remember(self, new: NewMemory) -> Added:
        """Through the write gate, against what is known already. Raises WriteRefused, InvalidMemory."""
        if new.text and not any(char.isprintable() and char != " " for char in new.text):
            raise InvalidMemory("the text has no character that can be seen", "give at least one word")
        if PINNED in new.tags:
            raise InvalidMemory(f"the tag {PINNED!r} is not given by hand", "`localai memory pin ID` pins a memory")
        parts = self._parts()
        near = parts.recall.near(new.text, new.namespace) if new.text.strip("\0 \t\r\n") else ()
        return parts.trust.remember(new, near)

    def search(self, question: Question) -> tuple[Hit, ...]:
        return self._parts().recall.search(question)

    def with_ids(self, ids: Sequence[str]) -> dict[str, Memory]:
        """Those of them that are still there."""
        from memory_store import rows

        with self.store.reading() as connection:
            return {found.id: found for found in rows.with_ids(connection, ids)}

    def meant(self, ids: Sequence[str]) -> list[Memory]:
        """Each by its id or an unmistakable beginning of it. Raises NoSuchMemory, InvalidMemory."""
        from memory_store import rows

        with self.store.reading() as connection:
            return [rows.meant(connection, each) for each in ids]

    def pinned(self, namespace: str | None = None) -> tuple[Memory, ...]:
        """Those that go along with every question of `namespace`, None for all; the first pinned first."""
        ids = self.pins.ids()
        if not ids or self.empty:
            return ()
        found = self.with_ids(ids)
        there = (found[each] for each in ids if each in found)
        return tuple(memory for memory in there if namespace in (None, memory.namespace))

    def pin(self, memory_id: str, *, pinned: bool) -> None:
        """Raises NoSuchMemory, BadRequest where too many are pinned."""
        known = self.store.get(memory_id)
        # What another program has forgotten takes no place.
        pins = self.pins.ids()
        self.pins.drop(set(pins) - self.with_ids(pins).keys())
        self.pins.mark(memory_id, pinned=pinned)
        tags = tuple(tag for tag in known.tags if tag != PINNED)
        self.store.set_tags(memory_id, (*tags, PINNED) if pinned else tags)

    def examine(self, *, repair: bool) -> tuple[Diagnosis, bool]:
        """What does not fit in the file, and whether the indexes beside it do; all does after a repair."""
        from memory_store import doctor

        parts = self._parts()
        found = doctor.repair(parts.store) if repair else doctor.examine(parts.store)
        # The vectors of a new embedder may still be in the making.
        made = parts.store.own_embedder().state == "active"
        indexes = (parts.words, parts.vectors) if made else (parts.words,)
        fits = all(index.fits() for index in indexes)
        if repair and not fits:
            doctor.index_anew(parts.store)
            fits = all(index.fits() for index in indexes)
        return found, fits

    @property
    def feedback(self) -> Feedback:
        return self._parts().feedback

    def trust_in(self, memories: Sequence[Memory]) -> tuple[float, ...]:
        return self._parts().trust.weights(memories)

    def judge(self, memory_id: str, verdict: Verdict, judge: Author) -> bool:
        parts = self._parts()
        return parts.trust.judge(parts.store.get(memory_id), judge, verdict)

    def bring_in(self, batch: Sequence[Record]) -> int:
        """Those that were pinned where they come from are pinned here, as far as there is room."""
        from memory_store.export import bring_in

        created = bring_in(self.store, batch)
        asked = self.with_ids([record.id for record in batch if PINNED in record.tags])
        pinned = set(self.pins.ids())
        for memory in asked.values():
            if PINNED in memory.tags and memory.id not in pinned:
                self._pin_again(memory)
        return created

    def _pin_again(self, memory: Memory) -> None:
        try:
            self.pins.mark(memory.id, pinned=True)
        except BadRequest:
            self.store.set_tags(memory.id, tuple(tag for tag in memory.tags if tag != PINNED))

    def forget(
        self,
        ids: Sequence[str],
        query: str | None,
        chosen: Filter | None,
        before: Callable[[], None] = lambda: None,
        lasting: bool = True,
    ) -> tuple[Receipt, list[Memory]]:
        """The receipt, and the memories that are gone: whoever quotes them elsewhere can be found by their texts.

        `query` and `chosen` narrow each other: what goes fits both. Ids stand alone. Raises BadRequest.
        `before` is called when it is certain what goes, before it goes and before any file is searched for it.
        `lasting`: documents that said it are not to say it again before it changes there.
        """
        from memory_store.erase import forget

        parts = self._parts()
        gone = self.would_go(ids, query, chosen)
        before()
        also, asked = self._elsewhere(), [memory.id for memory in gone]
        receipt = forget(parts.store, ids=asked, derived=parts.derived, also=also, lasting=lasting)
        self.frozen.drop({*receipt.ids, *receipt.cascaded})
        self.pins.drop({*receipt.ids, *receipt.cascaded})
        return receipt, gone

    def close(self) -> None:
        self.frozen.close()
        with self._lock:
            looking, self._again = self._looking, math.inf
        if looking is not None:
            looking.join()
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def would_go(self, ids: Sequence[str], query: str | None, chosen: Filter | None) -> list[Memory]:
        """What `forget` takes for these, in the order of writing. Raises BadRequest, NoSuchMemory."""
        from memory_store import rows
        from memory_store.plain_search import containing

        if not ids and chosen is None and query is None:
            raise BadRequest("it is not said what to forget", "give ids, a query, a source, a namespace or a time")
        if ids and (chosen is not None or query is not None):
            raise BadRequest("ids and conditions at once", "give the ids alone, or what the memories have in common")
        asked = dict.fromkeys(ids if query is None else containing(self.store, query, chosen))
        with self.store.reading() as connection:
            nums = rows.numbers_of_ids(connection, asked)
            nums += rows.numbers(connection, chosen) if chosen is not None and query is None else []
            return list(rows.many(connection, sorted(nums)))

    def _elsewhere(self) -> list[Path]:
        """Files of the home that might hold words of a request."""
        home = self.config.home
        names = ("ledger.db", "answers.db", "memory.db.damaged")
        ours = [home / f"{name}{end}" for name in names for end in ("", "-wal")]
        return [path for path in (*ours, *self.config.logs.glob("*.log*")) if path.is_file()]

    def _parts(self) -> OpenMemory:
        from localai.open_memory import open_memory

        with self._lock:
            if self._open is None:
                self._open = open_memory(self.path, self.config, self.embedder)
            self._open = self._open.filled()
            if self._open.missing:
                self._look_for_model(self._open)
            return self._open

    def _look_for_model(self, opened: OpenMemory) -> None:
        """In a thread, now and then: to see whether it is there may start an engine. The lock is held."""
        looking = self._looking is not None and self._looking.is_alive()
        if not looking and monotonic() >= self._again:
            self._looking = Thread(target=self._look, args=(opened,), name="memory-embedder", daemon=True)
            self._looking.start()

    def _look(self, opened: OpenMemory) -> None:
        assert self.embedder is not None
        found = opened
        try:
            found = opened.with_model(self.embedder)
        except MemoryStoreError as error:
            _log.warning("the memory goes on without its embedding model: %s", error.message)
        with self._lock:
            self._open, self._again = found, max(self._again, monotonic() + self._retry_s)
