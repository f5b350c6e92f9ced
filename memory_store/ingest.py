"""Files into the memory and out of it again: a file's chunks follow the file.

Paths enter, counts leave. A file that is gone or changed takes its old chunks with it, erased; what another file says
already is not kept twice. A file is recorded with its last chunk: what died before that is taken in again, and only
what is missing is added. It knows nothing of when files change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock

from memory_store import filed, rows, withheld
from memory_store.dbfile import Connection
from memory_store.documents import Block
from memory_store.duplicates import Seen
from memory_store.erase import drop_unused_names, forget
from memory_store.errors import InvalidMemory, MemoryStoreError, ReaderEnded, WriteRefused
from memory_store.extractor import Extractor
from memory_store.file_digest import digest as digest_of
from memory_store.file_texts import FileTexts
from memory_store.records import DEFAULT_NAMESPACE, Added, Author, Memory, NewMemory, State
from memory_store.rows import Filter
from memory_store.store import Store
from memory_store.trust import Trust

BATCH = 64
# Chunks in one transaction: a book must not keep other writers waiting.
TOGETHER = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What became of one file. `problem` says why nothing could be read; then its old chunks stay as they were.

    `withheld`: chunks that a person has forgotten, and that are the same still.
    """

    path: str
    added: int = 0
    duplicates: int = 0
    quarantined: int = 0
    removed: int = 0
    withheld: int = 0
    unchanged: bool = False
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    digest: str
    chunks: list[Block]

    @property
    def author(self) -> Author:
        return Author(kind="file", name=str(self.path))

    @property
    def texts(self) -> list[str]:
        return [_stored(chunk) for chunk in self.chunks]


@dataclass(slots=True)
class _Sorted:
    """The chunks of one file: `fresh` are to be written, `leans` are memories of others that say a chunk."""

    fresh: list[tuple[NewMemory, State]] = field(default_factory=list)
    leans: set[int] = field(default_factory=set)
    there: int = 0
    duplicates: int = 0
    refused: int = 0
    withheld: int = 0


class _Overtaken(MemoryStoreError):
    """A person has forgotten meanwhile what was about to be kept."""


class Ingest:
    """The files of one namespace. Usable from any thread: all read side by side, and keep one after the other."""

    def __init__(
        self,
        store: Store,
        trust: Trust | None = None,
        extractor: Extractor | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        erase: Callable[[Sequence[str]], object] | None = None,
    ) -> None:
        """`erase` takes ids of memories out; None erases them from the store's file alone."""
        self._store = store
        self._erase = (lambda ids: forget(store, ids=ids)) if erase is None else erase
        self._trust = Trust(store) if trust is None else trust
        self._extractor = Extractor() if extractor is None else extractor
        self._namespace = namespace
        self._keeping = RLock()
        self._texts = FileTexts(store, namespace)
        # Files that gave no memory, with their digest: not read anew at every event.
        self._fruitless: dict[str, tuple[str, Ingested]] = {}

    @property
    def beside(self) -> Path:
        """The memory's own file."""
        return self._store.path

    def close(self) -> None:
        self._extractor.close()

    def known(self) -> dict[str, str]:
        """The files that are wholly in, with the digest of what was read."""
        with self._store.reading() as connection:
            return filed.whole(connection, self._namespace)

    def named(self) -> set[str]:
        """All files of which something is here, be it a part."""
        with self._store.reading() as connection:
            return filed.named(connection, self._namespace)

    def put(self, path: Path, *, again: bool = False) -> Ingested:
        """Read a file and keep what is new; nothing happens where its content is known, unless `again`."""
        done, *_ = self.put_many([path], again=again)
        return done

    def put_many(self, paths: Sequence[Path], *, again: bool = False, by_hand: bool = False) -> Iterator[Ingested]:
        """The same for many: the old chunks of a batch go in one erasure, after its files have been read.

        `by_hand`: a person names these files, and wants also what was forgotten of them. Other files follow that lost
        what they leant on, or that were not brought to an end before.
        """
        for start in range(0, len(paths), BATCH):
            known = self.known()
            read: list[_Read] = []
            for path in paths[start : start + BATCH]:
                found = self._read(path, known, again or (by_hand and self._forgotten_of(path)), by_hand)
                if isinstance(found, Ingested):
                    yield found
                else:
                    read.append(found)
            yield from self._keep_batch(read, by_hand)
        yield from self._settle()

    def remove(self, paths: Sequence[Path]) -> int:
        """Erase all chunks of these files. Returns how many went; files that leant on them are owed a reading."""
        names = [str(path) for path in paths]
        if not names:
            return 0
        with self._keeping:
            gone = [memory for name in names for memory in self._of(name)]
            self._erase_chunks(gone)
            self._store.write(partial(self._drop, names))
        return len(gone)

    def _settle(self) -> Iterator[Ingested]:
        with self._store.reading() as connection:
            owed = [Path(name) for name in filed.owed(connection, self._namespace)]
        # What is not there just now is its folder's affair.
        there = [path for path in owed if path.is_file()]
        for start in range(0, len(there), BATCH):
            found = [self._read(path, {}, False, False) for path in there[start : start + BATCH]]
            yield from self._keep_batch([each for each in found if isinstance(each, _Read)], False)

    def _read(self, path: Path, known: dict[str, str], again: bool, by_hand: bool) -> _Read | Ingested:
        name, digest = str(path), ""
        try:
            digest = digest_of(path)
            if not again and known.get(name) == digest:
                return Ingested(path=name, unchanged=True)
            before = self._fruitless.get(name)
            if before is not None and before[0] == digest and not again and not by_hand:
                return before[1]
            return _Read(path, digest, self._extractor.chunks(path))
        except ReaderEnded as error:
            return Ingested(path=name, problem=error.message, hint=error.hint)
        except InvalidMemory as error:
            return self._refused(name, digest, error)

    def _refused(self, name: str, digest: str, error: InvalidMemory) -> Ingested:
        refused = Ingested(path=name, problem=error.message, hint=error.hint)
        self._fruitless[name] = digest, refused
        return refused

    def _keep_batch(self, read: Sequence[_Read], by_hand: bool) -> Iterator[Ingested]:
        with self._keeping:
            self._erase_old(read)
        for each in read:
            with self._keeping:
                if by_hand:
                    self._lift(each)
                done = self._kept(each)
            yield done

    def _erase_old(self, read: Sequence[_Read]) -> None:
        """Chunks of what these files said before."""
        old = list[Memory]()
        for each in read:
            says = set(each.texts)
            mine = [one for one in self._of(str(each.path)) if one.digest != each.digest or one.text not in says]
            if mine:
                self._store.write(partial(self._begin, each))
            old += mine
        self._erase_chunks(old)

    def _kept(self, read: _Read) -> Ingested:
        while True:
            try:
                return self._keep(read)
            except _Overtaken:
                continue  # what has been added by then is known the next time
            except InvalidMemory as error:
                return self._refused(str(read.path), read.digest, error)

    def _keep(self, read: _Read) -> Ingested:
        name, sorted_ = str(read.path), self._sorted(read)
        added = self._write(read, sorted_)
        states = [one.state for one in added]
        quarantined = sorted_.refused + states.count("quarantined")
        done = Ingested(
            path=name,
            added=states.count("kept") + states.count("contested"),
            quarantined=quarantined,
            duplicates=sorted_.duplicates,
            withheld=sorted_.withheld,
            unchanged=bool(sorted_.there) and not sorted_.fresh,
        )
        if added or sorted_.there or sorted_.leans:
            self._fruitless.pop(name, None)
        else:
            self._fruitless[name] = read.digest, replace(done, unchanged=True)
        return done

    def _sorted(self, read: _Read) -> _Sorted:
        own = {memory.num: memory.text for memory in self._of(str(read.path))}
        found, mine, held = _Sorted(), set(own.values()), Seen()
        with self._store.reading() as connection:
            forgotten = withheld.among(connection, self._store.salt, self._namespace, read.texts)
        for position, (chunk, text) in enumerate(zip(read.chunks, read.texts, strict=True)):
            if text in mine:
                found.there += 1
            elif text in forgotten:
                found.withheld += 1
            elif (num := self._texts.covering(text)) is not None:
                found.leans |= {num} - own.keys()
                found.duplicates += 1
            elif held.covering(text) is not None:
                found.duplicates += 1
            else:
                new = self._memory(read, chunk, position)
                try:
                    found.fresh.append((new, self._trust.gate(new)))
                    held.add(position, text)
                except WriteRefused:
                    found.refused += 1
        return found

    def _memory(self, read: _Read, chunk: Block, position: int) -> NewMemory:
        place = f"{read.path.name}: {chunk.place}"[:4000] if chunk.place else read.path.name
        return NewMemory(
            text=_stored(chunk),
            author=read.author,
            namespace=self._namespace,
            digest=read.digest,
            place="".join(char if char.isprintable() else " " for char in place),
            episode=str(read.path),
            position=position,
        )

    def _write(self, read: _Read, sorted_: _Sorted) -> list[Added]:
        """The record of the file is written with its last chunk."""
        done: list[Added] = []
        parts = [sorted_.fresh[start : start + TOGETHER] for start in range(0, len(sorted_.fresh), TOGETHER)]
        for part in parts:
            batch = [new for new, _ in part]
            last = sorted_ if part is parts[-1] else None
            more = partial(self._record, read, [new.text for new in batch], tuple(done), last)
            done += self._store.add_many(batch, state=[state for _, state in part], more=more)
        for one, (new, _) in zip(done, sorted_.fresh, strict=True):
            self._texts.add(one.num, new.text)
        if not parts:
            self._store.write(lambda connection: self._record(read, (), (), sorted_, connection, ()))
        return done

    def _begin(self, read: _Read, connection: Connection) -> None:
        filed.begin(connection, self._namespace, self._store.source_within(connection, read.author))

    def _record(
        self,
        read: _Read,
        texts: Sequence[str],
        before: Sequence[Added],
        whole: _Sorted | None,
        connection: Connection,
        added: Sequence[Added],
    ) -> None:
        """Within the transaction that adds `texts`: the file is `whole` now, or is not yet.

        What a derived fact says was not added, and the file leans on that.
        """
        if withheld.among(connection, self._store.salt, self._namespace, texts):
            raise _Overtaken("a part of the file was forgotten while it was taken in")
        if whole is None:
            self._begin(read, connection)
            return
        every = (*before, *added)
        leans = whole.leans | {one.num for one in every if not one.created}
        if not (leans or every or whole.there):
            self._drop([str(read.path)], connection)
            return
        source = self._store.source_within(connection, read.author)
        filed.end(connection, self._namespace, source, read.digest, sorted(leans))

    def _drop(self, names: Sequence[str], connection: Connection) -> None:
        filed.drop(connection, self._namespace, names)
        self._store.forget_names()
        drop_unused_names(connection)

    def _forgotten_of(self, path: Path) -> bool:
        with self._store.reading() as connection:
            return withheld.said_by(connection, self._store.salt, self._namespace, str(path))

    def _lift(self, read: _Read) -> None:
        salt, namespace = self._store.salt, self._namespace
        with self._store.reading() as connection:
            if not withheld.among(connection, salt, namespace, read.texts):
                return
        self._store.write(lambda connection: withheld.lift(connection, salt, namespace, str(read.path), read.texts))

    def _of(self, name: str) -> tuple[Memory, ...]:
        with self._store.reading() as connection:
            chosen = Filter(namespace=self._namespace, author=Author(kind="file", name=name))
            return rows.many(connection, rows.numbers(connection, chosen))

    def _erase_chunks(self, gone: Sequence[Memory]) -> None:
        if gone:
            self._erase([memory.id for memory in gone])
            self._texts.drop(memory.num for memory in gone)


def _stored(chunk: Block) -> str:
    return chunk.text.replace("\0", "")
