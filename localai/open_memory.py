"""The memory's file while it is open, with what searches it and the model that makes its vectors.

A path, settings and a model enter; parts leave that are made anew where the model comes late or comes back, and stay
usable for whoever still holds the old ones. Everything here blocks.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from localai.config import Config
from memory_store.embed import StaticEmbedder
from memory_store.errors import EmbedderFault, MemoryStoreError, StoreLocked, StoreUnusable
from memory_store.feedback import Feedback
from memory_store.lexical import LexicalIndex
from memory_store.recall import Recall
from memory_store.reembed import BATCH, Elder, reembed
from memory_store.standby import Standby
from memory_store.store import Store
from memory_store.trust import Trust
from memory_store.vectors import Tier, VectorIndex

if TYPE_CHECKING:
    from memory_store.cipher import Key
    from memory_store.embed import Embedder

_log = logging.getLogger(__name__)
INDEX_FOLDER = "memory-index"
_MODEL_BATCH = 16
"""A model takes its time for each text: what is done is kept, and a stop need not wait long."""
_PLAIN = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class OpenMemory:
    """`missing` is why the model that is set is not there; until it is, the built-in one makes vectors.

    `former` is the index of the built-in vectors after that: it follows the file until all of it is closed.
    """

    store: Store
    trust: Trust
    recall: Recall
    feedback: Feedback
    words: LexicalIndex
    vectors: VectorIndex
    tier: Tier
    ending: Event
    filling: Thread | None
    standby: Standby | None
    missing: str = ""
    former: VectorIndex | None = None

    @property
    def fallback(self) -> str:
        """What the memory does without, and why; "" where it works as it is set."""
        if self.missing:
            return f"words and the built-in embedder, because of {self.missing}"
        if self.standby is not None and self.standby.problem:
            return f"words alone, because of {self.standby.problem}"
        return ""

    @property
    def derived(self) -> tuple[VectorIndex | LexicalIndex, ...]:
        """All that is made from the file."""
        return (self.vectors, self.words, *(() if self.former is None else (self.former,)))

    def filled(self) -> OpenMemory:
        """The same, at work on what its model has missed where that answers again."""
        working = self.filling is not None and self.filling.is_alive()
        if self.standby is None or not self.standby.behind or self.standby.problem or working:
            return self
        if self.store.own_embedder().state == "active":
            return self
        return replace(self, filling=_filler(self.store, self.ending))

    def with_model(self, embedder: Embedder) -> OpenMemory:
        """The same where the model is still missing, else parts that use it, over the same open file."""
        standby, missing = _standby(embedder)
        if standby is None:
            return replace(self, missing=missing)
        # What was added in between may have been given vectors of the built-in one.
        standby.behind = True
        self.store.adopt(standby)
        # In memory until the next start: the folder holds the index that others may still be reading.
        vectors = VectorIndex(self.store, None, tier=self.tier)
        elder, filling = Elder(self.store, StaticEmbedder()), None
        if self.store.own_embedder().state != "active":
            filling = _filler(self.store, self.ending)
        recall = Recall(self.store, self.trust, words=self.words, vectors=vectors, elder=elder)
        parts = replace(self, recall=recall, feedback=Feedback(self.store, recall), vectors=vectors)
        return replace(parts, filling=filling, standby=standby, missing="", former=self.vectors)

    def close(self) -> None:
        self.ending.set()
        if self.filling is not None:
            self.filling.join()
        for index in self.derived:
            index.close()
        self.store.close()


def open_memory(path: Path, config: Config, embedder: Embedder | None) -> OpenMemory:
    """Raises what `Store` raises where the file cannot be used."""
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
    return OpenMemory(store, trust, recall, feedback, words, vectors, tier, ending, filling, standby, missing)


def salvaged(config: Config) -> dict[str, object]:
    """What a damaged file still says, in a new one; no daemon may run. Raises MemoryStoreError."""
    from memory_store.salvage import salvage

    path = config.home / "memory.db"
    if not path.is_file():
        raise StoreUnusable("there is no memory file here", "`localai memory add` begins one")
    found = salvage(path, key=_key(path) if config.memory_encrypted else None)
    # Made from the file of before, whose numbers other memories may have now.
    shutil.rmtree(path.with_name(INDEX_FOLDER), ignore_errors=True)
    return {**asdict(found), "damaged": str(found.damaged)}


def _standby(embedder: Embedder | None) -> tuple[Standby | None, str]:
    """The embedder as a memory that goes on without it uses it; None and the reason where it is not even known."""
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

    fresh = not path.exists() or not path.stat().st_size
    if not fresh and _begins(path, _PLAIN):
        hint = "`localai memory export` it, move the file away, start with `memory_encrypted`, and import it"
        raise StoreLocked("memory_encrypted is set, and the memory's file is not encrypted", hint)
    return key_from_keyring(str(path), create=fresh)


def _begins(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head
