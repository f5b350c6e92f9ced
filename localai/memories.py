"""The daemon's one open memory: made at its first use, because many never use it, and its indexes bring numpy.

Requests enter, memories, hits and receipts leave. Every method blocks: call them in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from localai.config import Config
from localai.errors import BadRequest
from localai.frozen_notes import FrozenNotes
from localai.pins import Pins
from memory_store.errors import EmbedderFault, InvalidMemory, MemoryStoreError
from memory_store.records import Added, Author, Memory, NewMemory

if TYPE_CHECKING:
    from memory_store.cipher import Key
    from memory_store.doctor import Diagnosis
    from memory_store.embed import Embedder
    from memory_store.erase import Receipt
    from memory_store.export import Record
    from memory_store.feedback import Feedback
    from memory_store.lexical import LexicalIndex
    from memory_store.recall import Hit, Question, Recall
    from memory_store.rows import Filter
    from memory_store.standby import Standby
    from memory_store.store import Store
    from memory_store.trust import Trust, Verdict
    from memory_store.vectors import VectorIndex

_log = logging.getLogger(__name__)
INDEX_FOLDER = "memory-index"
_MODEL_BATCH = 16
"""A model takes its time for each text: what is done is kept, and a stop need not wait long."""
_PLAIN = b"SQLite format 3\0"
PINNED = "pinned"
"""The tag of a pinned memory, which lists and exports show."""


@dataclass(frozen=True, slots=True)
class _Open:
    store: Store
    trust: Trust
    recall: Recall
    feedback: Feedback
    words: LexicalIndex
    vectors: VectorIndex
    ending: Event
    filling: Thread | None
    standby: Standby | None
    missing: str = ""

    @property
    def fallback(self) -> str:
        """What the memory does without, and why; "" where it works as it is set."""
        if self.missing:
            return f"words and the built-in embedder until the daemon starts anew, because of {self.missing}"
        if self.standby is not None and self.standby.problem:
            return f"words alone, because of {self.standby.problem}"
        return ""

    def filled(self) -> _Open:
        """The same, at work on what its model has missed where that answers again."""
        working = self.filling is not None and self.filling.is_alive()
        if self.standby is None or not self.standby.behind or self.standby.problem or working:
            return self
        if self.store.own_embedder().state == "active":
            return self
        return replace(self, filling=_filler(self.store, self.ending))

    def close(self) -> None:
        self.ending.set()
        if self.filling is not None:
            self.filling.join()
        self.vectors.close()
        self.words.close()
        self.store.close()


class Memories:
    """One file in one home."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = config.home / "memory.db"
        self._lock = Lock()
        self._open: _Open | None = None
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
        from memory_store.plain_search import containing

        parts = self._parts()
        store = parts.store
        asked = dict.fromkeys(ids)
        if not asked and chosen is None and query is None:
            raise BadRequest("it is not said what to forget", "give ids, a query, a source, a namespace or a time")
        if asked and (chosen is not None or query is not None):
            raise BadRequest("ids and conditions at once", "give the ids alone, or what the memories have in common")
        if query is not None:
            asked, chosen = dict.fromkeys(containing(store, query, chosen)), None
        gone = self._chosen(list(asked), chosen)
        before()
        derived = (parts.vectors, parts.words)
        receipt = forget(
            store, ids=list(asked), chosen=chosen, derived=derived, also=self._elsewhere(), lasting=lasting
        )
        self.frozen.drop({*receipt.ids, *receipt.cascaded})
        self.pins.drop({*receipt.ids, *receipt.cascaded})
        return receipt, gone

    def close(self) -> None:
        self.frozen.close()
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _chosen(self, ids: Sequence[str], chosen: Filter | None) -> list[Memory]:
        from memory_store import rows

        with self.store.reading() as connection:
            nums = rows.numbers_of_ids(connection, ids)
            nums += rows.numbers(connection, chosen) if chosen is not None else []
            return list(rows.many(connection, nums))

    def _elsewhere(self) -> list[Path]:
        """Files of the home that might hold words of a request."""
        home = self.config.home
        ours = [home / f"{name}.db{end}" for name in ("ledger", "answers") for end in ("", "-wal")]
        return [path for path in (*ours, *self.config.logs.glob("*.log*")) if path.is_file()]

    def _parts(self) -> _Open:
        with self._lock:
            if self._open is None:
                self._open = _opened(self.path, self.config, self.embedder)
            self._open = self._open.filled()
            return self._open


def _opened(path: Path, config: Config, embedder: Embedder | None) -> _Open:
    from memory_store.embed import StaticEmbedder
    from memory_store.feedback import Feedback
    from memory_store.lexical import LexicalIndex
    from memory_store.recall import Recall
    from memory_store.reembed import Elder
    from memory_store.store import Store
    from memory_store.trust import Trust
    from memory_store.vectors import Tier, VectorIndex

    standby, missing = _standby(embedder)
    store = Store(path, embedder=standby, key=_key(path) if config.memory_encrypted else None)
    # What is encrypted on disk must not lie beside itself in the plain.
    folder = None if store.encrypted else path.with_name(INDEX_FOLDER)
    tier: Tier = "binary" if config.memory_tier == "binary" else "int8"
    words, vectors, trust = LexicalIndex(store, folder), VectorIndex(store, folder, tier=tier), Trust(store)
    elder, ending, filling = None, Event(), None
    # While the set model is missing, its vectors stay: the built-in one only makes those of what is added.
    if not missing and store.own_embedder().state != "active":
        elder = Elder(store, StaticEmbedder())
        filling = _filler(store, ending)
    recall = Recall(store, trust, words=words, vectors=vectors, elder=elder)
    feedback = Feedback(store, recall)
    return _Open(store, trust, recall, feedback, words, vectors, ending, filling, standby, missing)


def _standby(embedder: Embedder | None) -> tuple[Standby | None, str]:
    """The embedder as a memory that goes on without it uses it; None and the reason where it is not even known."""
    from memory_store.errors import EmbedderFault
    from memory_store.standby import Standby

    if embedder is None:
        return None, ""
    standby = embedder if isinstance(embedder, Standby) else Standby(embedder)
    try:
        _log.info("the memory's embedder: %s, %d numbers", standby.digest, standby.width)
    except EmbedderFault as error:
        _log.warning("the built-in embedder is used: %s", error.message)
        return None, error.message
    return standby, ""


def _filler(store: Store, ending: Event) -> Thread:
    thread = Thread(target=_fill, args=(store, ending), name="memory-reembedding", daemon=True)
    thread.start()
    return thread


def _fill(store: Store, ending: Event) -> None:
    """Make the vectors of a new embedding model, as far as the daemon lives; the next start goes on."""
    from memory_store.embed import StaticEmbedder
    from memory_store.reembed import BATCH, reembed
    from memory_store.standby import Standby

    try:
        for step in reembed(store, BATCH if isinstance(store.embedder, StaticEmbedder) else _MODEL_BATCH):
            _log.info("memories embedded anew: %d of %d", step.done, step.total)
            if ending.is_set():
                return
    except MemoryStoreError as error:
        _log.warning("memories are not embedded anew: %s", error.message)
        if isinstance(error, EmbedderFault) and isinstance(store.embedder, Standby):
            store.embedder.note(error)


def _key(path: Path) -> Key:
    """From the OS keyring, drawn for a new file. Raises StoreLocked, and where a plain file is there already."""
    from memory_store.cipher import key_from_keyring
    from memory_store.errors import StoreLocked

    fresh = not path.exists() or not path.stat().st_size
    if not fresh and _begins(path, _PLAIN):
        hint = "`localai memory export` it, move the file away, start with `memory_encrypted`, and import it"
        raise StoreLocked("memory_encrypted is set, and the memory's file is not encrypted", hint)
    return key_from_keyring(str(path), create=fresh)


def _begins(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head
