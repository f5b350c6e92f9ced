"""Folders and files that the daemon's memory follows: which ones is kept in `watched.json`, and they are followed anew
at every start. Which disk each was on is kept with it: an empty mount point is no folder whose files were deleted.

Paths enter, counts leave. Every method blocks: call them in a thread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from localai.atomic import replace_file
from localai.errors import BadRequest, ConfigError, Conflict, LocalaiError, NotFound
from localai.memories import Memories
from memory_store.errors import MemoryStoreError

if TYPE_CHECKING:
    from memory_store.folder import Identity
    from memory_store.ingest import Ingest, Ingested
    from memory_store.presence import Presence
    from memory_store.watch import Watch

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Followed:
    """One folder; the counts are since the daemon's start."""

    folder: str
    namespace: str
    files: int = 0
    set_aside: int = 0
    added: int = 0
    removed: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    folder: str
    namespace: str
    parts: dict[str, Identity]


class WatchedFolders:
    """All of one daemon. `erase` forgets memories wherever words of them are, as a person's `forget` does."""

    def __init__(self, memories: Memories, erase: Callable[[Sequence[str]], object]) -> None:
        self._memories = memories
        self._erase = erase
        self._file = memories.config.home / "watched.json"
        self._lock = Lock()
        self._writing = Lock()
        self._watches: dict[str, tuple[Followed, Watch]] = {}
        # One for each namespace: what one folder says already is not kept for another, and survives it.
        self._ingest: dict[str, Ingest] = {}

    def start(self) -> None:
        """Follow what was followed before; a folder that is not there now is told of in the log and in the list."""
        try:
            kept = self._kept()
        except ConfigError as error:
            _log.warning("no folder is watched: %s", error.message)
            return
        for entry in kept:
            try:
                self._follow(entry)
            except (MemoryStoreError, BadRequest) as error:
                _log.warning("a watched folder is not followed: %s", error.message)

    def add(self, folder: Path, namespace: str) -> None:
        """Raises BadRequest, Conflict, InvalidMemory."""
        from memory_store.folder import identity

        with self._writing:
            kept = self._kept()
            if any(folder.is_relative_to(each.folder) or Path(each.folder).is_relative_to(folder) for each in kept):
                raise Conflict("this folder, one in it, or one around it is watched already", "`localai memory watch`")
            found = identity(folder)
            if found is None:
                raise BadRequest(f"{folder.name!r} is no folder", "give the path of a folder")
            entry = _Entry(str(folder), namespace, {"": found})
            self._keep([*kept, entry])
        self._follow(entry)

    def remove(self, folder: Path) -> None:
        """Follow it no more; what it said stays remembered. Raises NotFound."""
        with self._writing:
            kept = self._kept()
            left = [each for each in kept if each.folder != str(folder)]
            if len(left) == len(kept):
                raise _not_watched(folder)
            self._keep(left)
        with self._lock:
            found = self._watches.pop(str(folder), None)
        if found is not None:
            found[1].close()

    def confirm(self, folder: Path) -> None:
        """A person says that the files that it lacks are gone. Raises NotFound."""
        with self._lock:
            found = self._watches.get(str(folder))
        if found is None:
            raise _not_watched(folder)
        found[1].confirm()

    def followed(self) -> list[dict[str, Any]]:
        with self._lock:
            running = {name: asdict(followed) for name, (followed, _) in self._watches.items()}
        for doubt in self.doubts():
            if doubt["watched"] in running:
                running[doubt["watched"]]["problem"] = doubt["told"]
        gone = "it is not followed: `localai logs` tells why"
        return [
            running.get(each.folder) or asdict(Followed(each.folder, each.namespace, problem=gone))
            for each in self._kept()
        ]

    def doubts(self) -> list[dict[str, Any]]:
        """Folders whose files are missing in a way that a missing disk explains: what they said is kept."""
        from memory_store.watch import doubted

        with self._lock:
            watches = [(name, watch) for name, (_, watch) in self._watches.items()]
        return [
            {
                **asdict(doubt),
                "folder": str(doubt.folder),
                "watched": name,
                "told": "; ".join(doubted(doubt, Path(name))),
            }
            for name, watch in watches
            for doubt in watch.presence.doubts
        ]

    def put(self, paths: Sequence[Path], namespace: str) -> list[Ingested]:
        """Read these files once."""
        return list(self._of(namespace).put_many(paths, by_hand=True))

    def close(self) -> None:
        with self._lock:
            entries, self._watches = list(self._watches.values()), {}
            ingests, self._ingest = list(self._ingest.values()), {}
        for _, watch in entries:
            watch.close()
        for ingest in ingests:
            ingest.close()

    def _of(self, namespace: str) -> Ingest:
        from memory_store.ingest import Ingest

        store = self._memories.store
        with self._lock:
            if namespace not in self._ingest:
                self._ingest[namespace] = Ingest(store, namespace=namespace, erase=self._erase)
            return self._ingest[namespace]

    def _follow(self, entry: _Entry) -> None:
        from memory_store.presence import Presence
        from memory_store.watch import Watch

        folder, ingest, followed = (
            Path(entry.folder),
            self._of(entry.namespace),
            Followed(entry.folder, entry.namespace),
        )
        presence = Presence(folder, ingest.beside, entry.parts)
        watch = Watch(
            ingest,
            folder,
            lambda done: _count(followed, done),
            begins=lambda: _begin(followed),
            ends=lambda: self._remember(entry.folder, presence),
            presence=presence,
        )
        watch.start()
        with self._lock:
            self._watches[entry.folder] = followed, watch

    def _remember(self, folder: str, presence: Presence) -> None:
        """On which disk it was this time."""
        try:
            with self._writing:
                kept = self._kept()
                if any(each.folder == folder and each.parts != presence.parts for each in kept):
                    self._keep(
                        [replace(each, parts=presence.parts) if each.folder == folder else each for each in kept]
                    )
        except LocalaiError as error:
            _log.warning("on which disk a watched folder is was not noted: %s", error.message)

    def _kept(self) -> list[_Entry]:
        if not self._file.is_file():
            return []
        try:
            return [_entry(found) for found in json.loads(self._file.read_bytes())]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ConfigError("watched.json cannot be read", "remove it and watch the folders again") from error

    def _keep(self, entries: Sequence[_Entry]) -> None:
        replace_file(self._file, json.dumps([asdict(entry) for entry in entries]).encode())


def _entry(found: Any) -> _Entry:
    """What was written before parts were remembered has none."""
    from memory_store.folder import Identity

    parts = {name: Identity(**of) for name, of in found.get("parts", {}).items()}
    return _Entry(found["folder"], found["namespace"], parts)


def _not_watched(folder: Path) -> NotFound:
    return NotFound(f"{folder.name!r} is not watched", "`localai memory watch` shows what is")


def _begin(followed: Followed) -> None:
    """All files are looked at again: what is wrong still is told again."""
    followed.problem = ""


def _count(followed: Followed, done: Ingested) -> None:
    followed.files += not done.unchanged and not done.problem and bool(done.added or done.duplicates)
    followed.added += done.added
    followed.removed += done.removed
    followed.set_aside += done.quarantined
    if done.problem:
        # A name on disk may be bytes that are no text.
        name = Path(done.path).name.encode("utf-8", "backslashreplace").decode()
        followed.problem = f"{name}: {done.problem}"
