"""Files into the memory and out of it again: a file's chunks follow the file.

Paths enter, counts leave. A file that is gone or changed takes its old chunks with it, erased; what another file says
already is not kept twice. It knows nothing of when files change.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memory_store import rows, withheld
from memory_store.documents import MOST_BYTES, Block
from memory_store.duplicates import Seen
from memory_store.erase import forget
from memory_store.errors import InvalidMemory, WriteRefused
from memory_store.extractor import Extractor
from memory_store.records import DEFAULT_NAMESPACE, Author, NewMemory
from memory_store.rows import Filter
from memory_store.store import Store
from memory_store.trust import Trust

BATCH = 64


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


class Ingest:
    """The files of one namespace. Not for two threads at once."""

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
        self._seen: Seen | None = None
        # Files that rely on a chunk of another: they are read again when that one goes.
        self._leaning: dict[int, set[Path]] = {}
        # Files that gave no memory, with their digest: not read anew at every event.
        self._fruitless: dict[str, tuple[str, Ingested]] = {}

    def close(self) -> None:
        self._extractor.close()

    def known(self) -> dict[str, str]:
        """Paths that have chunks here, with the digest of the file that these are from."""
        sql = (
            "SELECT DISTINCT s.name, m.digest FROM memory m JOIN source s ON s.id = m.source "
            "JOIN namespace n ON n.id = m.namespace WHERE s.kind = 'file' AND n.name = ? ORDER BY m.num"
        )
        with self._store.reading() as connection:
            return dict(connection.execute(sql, (self._namespace,)).fetchall())

    def put(self, path: Path, *, again: bool = False) -> Ingested:
        """Read a file and keep what is new; nothing happens where its content is known, unless `again`."""
        return next(self.put_many([path], again=again))

    def put_many(self, paths: Sequence[Path], *, again: bool = False, by_hand: bool = False) -> Iterator[Ingested]:
        """The same for many: the old chunks of a batch go in one erasure, after its files have been read.

        `by_hand`: a person names these files, and wants also what was forgotten of them.
        """
        for start in range(0, len(paths), BATCH):
            known = self.known()
            whole: list[_Read] = []
            for path in paths[start : start + BATCH]:
                read = self._read(path, known, again or (by_hand and self._forgotten_of(path)), by_hand)
                if isinstance(read, Ingested):
                    yield read
                else:
                    whole.append(read)
            self.remove([read.path for read in whole if str(read.path) in known])
            for read in whole:
                if by_hand:
                    self._lift(read)
                yield self._keep_all(read)

    def _read(self, path: Path, known: dict[str, str], again: bool, by_hand: bool) -> _Read | Ingested:
        name, digest = str(path), ""
        try:
            _check_file(path)
            digest = _digest(path)
            if not again and known.get(name) == digest:
                return Ingested(path=name, unchanged=True)
            before = self._fruitless.get(name)
            if before is not None and before[0] == digest and not again and not by_hand:
                return before[1]
            return _Read(path, digest, self._extractor.chunks(path))
        except InvalidMemory as error:
            refused = Ingested(path=name, problem=error.message, hint=error.hint)
            self._fruitless[name] = digest, refused
            return refused

    def _keep_all(self, read: _Read) -> Ingested:
        name = str(read.path)
        counts = {"kept": 0, "contested": 0, "quarantined": 0, "duplicate": 0}
        with self._store.reading() as connection:
            texts = [chunk.text for chunk in read.chunks]
            forgotten = withheld.among(connection, self._store.salt, self._namespace, texts)
        for position, chunk in enumerate(read.chunks):
            if chunk.text in forgotten:
                continue
            place = f"{read.path.name}: {chunk.place}"[:4000] if chunk.place else read.path.name
            new = NewMemory(
                text=chunk.text.replace("\0", ""),
                author=Author(kind="file", name=name),
                namespace=self._namespace,
                digest=read.digest,
                place="".join(char if char.isprintable() else " " for char in place),
                episode=name,
                position=position,
            )
            counts[self._keep(new, read.path)] += 1
        added = counts["kept"] + counts["contested"]
        done = Ingested(
            path=name,
            added=added,
            quarantined=counts["quarantined"],
            duplicates=counts["duplicate"],
            withheld=sum(chunk.text in forgotten for chunk in read.chunks),
        )
        if added or counts["quarantined"]:
            self._fruitless.pop(name, None)
        else:
            self._fruitless[name] = read.digest, replace(done, duplicates=0, unchanged=True)
        return done

    def _forgotten_of(self, path: Path) -> bool:
        with self._store.reading() as connection:
            return withheld.said_by(connection, self._store.salt, self._namespace, str(path))

    def _lift(self, read: _Read) -> None:
        texts = [chunk.text for chunk in read.chunks]
        with self._store.reading() as connection:
            if not withheld.among(connection, self._store.salt, self._namespace, texts):
                return
        salt, namespace = self._store.salt, self._namespace
        self._store.write(lambda connection: withheld.lift(connection, salt, namespace, str(read.path), texts))

    def remove(self, paths: Iterable[Path]) -> int:
        """Erase all chunks of these files; files that relied on them are read again. Returns how many went."""
        nums: list[int] = []
        with self._store.reading() as connection:
            for path in paths:
                author = Author(kind="file", name=str(path))
                nums += rows.numbers(connection, Filter(namespace=self._namespace, author=author))
            ids = [memory.id for memory in rows.many(connection, nums)]
        if not ids:
            return 0
        self._erase(ids)
        leaning: set[Path] = set()
        for num in nums:
            leaning |= self._leaning.pop(num, set())
            if self._seen is not None:
                self._seen.drop(num)
        for path in sorted(leaning - set(paths)):
            self.put(path, again=True)
        return len(ids)

    def lapsed(self) -> set[Path]:
        """Files of which a part was not kept because another file said it, and that has been erased elsewhere since."""
        with self._store.reading() as connection:
            there = {memory.num for memory in rows.many(connection, list(self._leaning))}
        gone = [self._leaning.pop(num) for num in self._leaning.keys() - there]
        return set().union(*gone)

    def _keep(self, new: NewMemory, path: Path) -> str:
        seen = self._texts()
        covering = self._covering(new.text)
        if covering is not None:
            self._leaning.setdefault(covering, set()).add(path)
            return "duplicate"
        try:
            added = self._trust.remember(new)
        except WriteRefused:
            return "quarantined"
        seen.add(added.num, new.text)
        return added.state

    def _covering(self, text: str) -> int | None:
        """The number of a memory that says this already; what was erased elsewhere meanwhile covers nothing."""
        seen = self._texts()
        while (num := seen.covering(text)) is not None:
            with self._store.reading() as connection:
                if rows.many(connection, [num]):
                    return num
            seen.drop(num)
        return None

    def _texts(self) -> Seen:
        if self._seen is None:
            self._seen = Seen()
            sql = (
                "SELECT m.num, m.text FROM memory m JOIN source s ON s.id = m.source "
                "JOIN namespace n ON n.id = m.namespace WHERE s.kind = 'file' AND n.name = ? ORDER BY m.num"
            )
            with self._store.reading() as connection:
                for num, text in connection.execute(sql, (self._namespace,)):
                    self._seen.add(num, text)
        return self._seen


def _check_file(path: Path) -> None:
    """The name is the author of what the file says, which is shown. A pipe or device would be read without end."""
    if not str(path).isprintable():
        hint = "rename it: memories are listed with the names of their files"
        raise InvalidMemory("the file's name has characters that cannot be shown", hint)
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidMemory("this is no plain file", "give a document, or a folder of documents")
    if found.st_size > MOST_BYTES:
        raise InvalidMemory(f"the file is larger than {MOST_BYTES >> 20} MiB", "cut it into parts")


def _unreadable(error: OSError) -> InvalidMemory:
    return InvalidMemory(f"the file cannot be read: {error.strerror}", "check that it is there and readable")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(error) from error


def summed(done: Sequence[Ingested]) -> dict[str, int]:
    """Totals over many files."""
    names = ("added", "duplicates", "quarantined", "removed")
    return {name: sum(getattr(one, name) for one in done) for name in names} | {
        "files": len(done),
        "unchanged": sum(one.unchanged for one in done),
        "problems": sum(bool(one.problem) for one in done),
    }
