"""The daemon's one open memory: made at its first use, because many never use it, and its indexes bring numpy.

Requests enter, memories, hits and receipts leave. Every method blocks: call them in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from localai.config import Config
from localai.errors import BadRequest
from memory_store.records import Added, Author, Memory, NewMemory

if TYPE_CHECKING:
    from memory_store.erase import Receipt
    from memory_store.export import Record
    from memory_store.recall import Hit, Question, Recall
    from memory_store.rows import Filter
    from memory_store.store import Store
    from memory_store.trust import Trust, Verdict


@dataclass(frozen=True, slots=True)
class _Open:
    store: Store
    trust: Trust
    recall: Recall


class Memories:
    """One file in one home."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = config.home / "memory.db"
        self._lock = Lock()
        self._open: _Open | None = None
        self.frozen: dict[bytes, tuple[str, tuple[str, ...]]] = {}

    @property
    def store(self) -> Store:
        """Raises what `Store` raises where the file cannot be used."""
        return self._parts().store

    @property
    def empty(self) -> bool:
        """True where nothing was ever remembered; costs nothing then."""
        return self._open is None and not self.path.exists()

    def remember(self, new: NewMemory) -> Added:
        """Through the write gate, against what is known already. Raises WriteRefused, InvalidMemory."""
        parts = self._parts()
        near = parts.recall.near(new.text, new.namespace) if new.text.strip("\0 \t\r\n") else ()
        return parts.trust.remember(new, near)

    def search(self, question: Question) -> tuple[Hit, ...]:
        return self._parts().recall.search(question)

    def trust_in(self, memories: Sequence[Memory]) -> tuple[float, ...]:
        return self._parts().trust.weights(memories)

    def judge(self, memory_id: str, verdict: Verdict, judge: Author) -> bool:
        parts = self._parts()
        return parts.trust.judge(parts.store.get(memory_id), judge, verdict)

    def bring_in(self, batch: Sequence[Record]) -> int:
        from memory_store.export import bring_in

        return bring_in(self.store, batch)

    def forget(self, ids: Sequence[str], query: str | None, chosen: Filter | None) -> tuple[Receipt, list[str]]:
        """The receipt, and the texts that are gone: whoever quotes them elsewhere can be found by these."""
        from memory_store.erase import forget
        from memory_store.plain_search import containing

        store = self.store
        asked = dict.fromkeys(ids)
        if query is not None:
            asked |= dict.fromkeys(containing(store, query, chosen.namespace if chosen else None))
            chosen = None
        if not asked and chosen is None and query is None:
            raise BadRequest("it is not said what to forget", "give ids, a query, a source, a namespace or a time")
        gone = self._texts(list(asked), chosen)
        receipt = forget(store, ids=list(asked), chosen=chosen, also=self._elsewhere())
        erased = set(receipt.ids) | set(receipt.cascaded)
        self.frozen = {key: block for key, block in self.frozen.items() if not erased & set(block[1])}
        return receipt, gone

    def close(self) -> None:
        with self._lock:
            if self._open is not None:
                self._open.store.close()
                self._open = None

    def _texts(self, ids: Sequence[str], chosen: Filter | None) -> list[str]:
        from memory_store import rows

        with self.store.reading() as connection:
            nums = rows.numbers_of_ids(connection, ids)
            nums += rows.numbers(connection, chosen) if chosen is not None else []
            return [memory.text for memory in rows.many(connection, nums)]

    def _elsewhere(self) -> list[Path]:
        """Files of the home that might hold words of a request."""
        home = self.config.home
        ledger = [home / f"ledger.db{end}" for end in ("", "-wal")]
        return [path for path in (*ledger, *self.config.logs.glob("*.log*")) if path.is_file()]

    def _parts(self) -> _Open:
        with self._lock:
            if self._open is None:
                from memory_store.recall import Recall
                from memory_store.store import Store
                from memory_store.trust import Trust

                store = Store(self.path)
                trust = Trust(store)
                self._open = _Open(store, trust, Recall(store, trust))
            return self._open
