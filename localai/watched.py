"""Folders and files that the daemon's memory follows: which ones is kept in `watched.json`, and they are followed anew
at every start.

Paths enter, counts leave. Every method blocks: call them in a thread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from localai.atomic import replace_file
from localai.errors import BadRequest, ConfigError, Conflict, NotFound
from localai.memories import Memories
from memory_store.errors import MemoryStoreError

if TYPE_CHECKING:
    from memory_store.ingest import Ingest, Ingested
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


class WatchedFolders:
    """All of one daemon. `erase` forgets memories wherever words of them are, as a person's `forget` does."""

    def __init__(self, memories: Memories, erase: Callable[[Sequence[str]], object]) -> None:
        self._memories = memories
        self._erase = erase
        self._file = memories.config.home / "watched.json"
        self._lock = Lock()
        self._ingesting = Lock()
        self._watches: dict[str, tuple[Followed, Watch, Ingest]] = {}
        self._ingest: dict[str, Ingest] = {}

    def start(self) -> None:
        """Follow what was followed before; a folder that is not there now is told of in the log and in the list."""
        try:
            kept = self._kept()
        except ConfigError as error:
            _log.warning("no folder is watched: %s", error.message)
            return
        for folder, namespace in kept:
            try:
                self._follow(Path(folder), namespace)
            except (MemoryStoreError, BadRequest) as error:
                _log.warning("a watched folder is not followed: %s", error.message)

    def add(self, folder: Path, namespace: str) -> None:
        """Raises BadRequest, Conflict, InvalidMemory."""
        if any(Path(folder).is_relative_to(name) or Path(name).is_relative_to(folder) for name, _ in self._kept()):
            raise Conflict("this folder, one in it, or one around it is watched already", "`localai memory watch`")
        if not folder.is_dir():
            raise BadRequest(f"{folder.name!r} is no folder", "give the path of a folder")
        self._keep([*self._kept(), (str(folder), namespace)])
        self._follow(folder, namespace)

    def remove(self, folder: Path) -> None:
        """Follow it no more; what it said stays remembered. Raises NotFound."""
        kept = self._kept()
        if str(folder) not in dict(kept):
            raise NotFound(f"{folder.name!r} is not watched", "`localai memory watch` shows what is")
        self._keep([(name, namespace) for name, namespace in kept if name != str(folder)])
        with self._lock:
            found = self._watches.pop(str(folder), None)
        if found is not None:
            found[1].close()
            found[2].close()

    def followed(self) -> list[dict[str, Any]]:
        with self._lock:
            running = {name: asdict(entry[0]) for name, entry in self._watches.items()}
        gone = "it is not followed: `localai logs` tells why"
        return [
            running.get(name) or asdict(Followed(name, namespace, problem=gone)) for name, namespace in self._kept()
        ]

    def put(self, paths: Sequence[Path], namespace: str) -> list[Ingested]:
        """Read these files once."""
        from memory_store.ingest import Ingest

        with self._ingesting:
            if namespace not in self._ingest:
                self._ingest[namespace] = Ingest(self._memories.store, namespace=namespace, erase=self._erase)
            return list(self._ingest[namespace].put_many(paths, by_hand=True))

    def close(self) -> None:
        with self._lock:
            entries, self._watches = list(self._watches.values()), {}
        for _, watch, ingest in entries:
            watch.close()
            ingest.close()
        with self._ingesting:
            for ingest in self._ingest.values():
                ingest.close()

    def _follow(self, folder: Path, namespace: str) -> None:
        from memory_store.ingest import Ingest
        from memory_store.watch import Watch

        followed = Followed(str(folder), namespace)
        ingest = Ingest(self._memories.store, namespace=namespace, erase=lambda ids: self._erased(ids, str(folder)))
        watch = Watch(ingest, folder, lambda done: _count(followed, done), lambda: _begin(followed))
        watch.start()
        with self._lock:
            self._watches[str(folder)] = followed, watch, ingest

    def _erased(self, ids: Sequence[str], where: str) -> None:
        """Files of other folders may have said the same, and were not kept twice: they are looked at again."""
        self._erase(ids)
        with self._lock:
            for name, (_, watch, _) in self._watches.items():
                if name != where:
                    watch.look()

    def _kept(self) -> list[tuple[str, str]]:
        if not self._file.is_file():
            return []
        try:
            return [(entry["folder"], entry["namespace"]) for entry in json.loads(self._file.read_bytes())]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError("watched.json cannot be read", "remove it and watch the folders again") from error

    def _keep(self, entries: Sequence[tuple[str, str]]) -> None:
        found = [{"folder": folder, "namespace": namespace} for folder, namespace in entries]
        replace_file(self._file, json.dumps(found).encode())


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
