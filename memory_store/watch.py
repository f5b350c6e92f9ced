"""Folders that the memory follows: changes on the disk enter, calls to an Ingest leave, once things are quiet.

Events only say where to look; what is true is read from the disk, so lost or doubled events cost nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from threading import Condition, Thread

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from memory_store.errors import InvalidMemory, MemoryStoreError
from memory_store.folder import Identity, identity, listing
from memory_store.ingest import Ingest, Ingested
from memory_store.presence import Doubt, Presence

QUIET_SECONDS = 0.5
LONGEST_WAIT = 5.0
LOOK_SECONDS = 10.0
"""How often a folder itself is looked for: that it was moved away, or is back, is told by no event."""
_GONE = ("deleted", "moved")


def sync(ingest: Ingest, root: Path, presence: Presence | None = None, *, again: bool = False) -> Iterator[Ingested]:
    """Make the memory hold what the folder holds, file by file. Raises InvalidMemory where the folder is gone.

    A folder that is gone takes nothing with it, nor does what may be on a disk that is not there just now: `presence`
    knows what was there before.
    """
    judge = Presence(root, ingest.beside) if presence is None else presence
    found = listing(root)
    verdict = judge.judge(found, _under(ingest, root))
    removed = ingest.remove(verdict.gone)
    judge.settle(verdict)
    if removed:
        yield Ingested(path=str(root), removed=removed)
    for path, why in found.unread.items():
        yield Ingested(path=str(path), problem=f"it cannot be looked into: {why}", hint="what it said stays meanwhile")
    for doubt in verdict.doubts:
        problem, hint = doubted(doubt, root)
        yield Ingested(path=str(doubt.folder), problem=problem, hint=hint)
    if not judge.absent:
        yield from ingest.put_many(found.files, again=again)


def _under(ingest: Ingest, root: Path) -> list[Path]:
    return [Path(name) for name in sorted(ingest.named()) if name.startswith(f"{root}{os.sep}")]


def doubted(doubt: Doubt, root: Path) -> tuple[str, str]:
    """What is wrong in words, and what to do about it."""
    told = f"{doubt.lacking} of {doubt.known} files are missing, as if their disk were not there; what they said stays"
    return told, f"bring the disk back, or say that they are gone: `localai memory watch {quote(str(root))} --gone`"


class Watch(FileSystemEventHandler):
    """Follows one folder until closed; where it is not there, it is followed once it is back.

    `told` hears of every file that was looked at and every failure, `begins` that all files are looked at now, `ends`
    that they have been. `presence` is what was remembered of the folder; where its disk seems not to be there, it is
    looked for again and again.
    """

    def __init__(
        self,
        ingest: Ingest,
        root: Path,
        told: Callable[[Ingested], None],
        begins: Callable[[], None] = lambda: None,
        ends: Callable[[], None] = lambda: None,
        presence: Presence | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._ingest = ingest
        self._root = self._real = root
        self._told = told
        self._begins, self._ends = begins, ends
        self.presence = Presence(root, ingest.beside) if presence is None else presence
        self._look_seconds = look_seconds
        self._followed: Identity | None = None
        self._due = Condition()
        self._since: float | None = None
        self._last = 0.0
        self._closed = False
        self._observer = Observer()
        self._thread = Thread(target=self._run, name=f"watch {root.name}", daemon=True)

    def start(self) -> None:
        """Raises InvalidMemory where the folder cannot be watched. The first look at all files comes at once."""
        try:
            self._attach()
            self._observer.start()
        except OSError as error:
            raise InvalidMemory(
                f"the folder cannot be watched: {error.strerror}", "raise the limit of watches"
            ) from error
        self._touch(-QUIET_SECONDS)
        self._thread.start()

    def confirm(self) -> None:
        """A person says that what is lacking is gone: it is removed soon."""
        self.presence.confirm()
        self._touch(0.0)

    def close(self) -> None:
        with self._due:
            self._closed = True
            self._due.notify()
        self._observer.stop()
        self._observer.join()
        self._thread.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _GONE:
            path = Path(os.fsdecode(event.src_path))
            if path.is_relative_to(self._real):
                self.presence.witness(self._root / path.relative_to(self._real))
        if event.event_type not in ("opened", "closed_no_write"):
            self._touch(0.0)

    def _touch(self, shift: float) -> None:
        with self._due:
            self._last = time.monotonic() + shift
            self._since = self._last if self._since is None else self._since
            self._due.notify()

    def _attach(self) -> None:
        """Hear of what happens in the folder that is there now, in place of the one before. Raises OSError."""
        found = identity(self._root)
        if found == self._followed and self._hearing():
            return
        self._observer.unschedule_all()
        self._followed = None
        if found is not None:
            # Behind a link the system tells of nothing.
            self._real = self._root.resolve()
            self._observer.schedule(self, str(self._real), recursive=True)
            self._followed = found

    def _hearing(self) -> bool:
        return all(emitter.is_alive() for emitter in self._observer.emitters)

    def _run(self) -> None:
        while self._wait():
            try:
                self._attach()
                if self._followed is None:
                    self._told(self._absent())
                    continue
                self._begins()
                for done in sync(self._ingest, self._root, self.presence):
                    self._told(done)
                    if self._closed:
                        return
                self._ends()
            except MemoryStoreError as error:
                self._told(Ingested(path=str(self._root), problem=error.message, hint=error.hint))
            except OSError as error:
                problem = f"the folder cannot be watched: {error.strerror}"
                self._told(Ingested(path=str(self._root), problem=problem, hint="raise the limit of watches"))

    def _absent(self) -> Ingested:
        if self.presence.confirmed:
            removed = self._ingest.remove(_under(self._ingest, self._root))
            self.presence.confirmed = False
            return Ingested(path=str(self._root), removed=removed)
        told = "there is no folder just now: what it said stays, and it is followed again once it is back"
        hint = f"bring it back, or `localai memory watch {quote(str(self._root))} --gone`, or the same with --stop"
        return Ingested(path=str(self._root), problem=told, hint=hint)

    def _wait(self) -> bool:
        """Until something has happened and it is quiet again, or it has not been quiet for long; False at the end."""
        with self._due:
            while not self._closed:
                if self._since is None:
                    if not self._due.wait(self._look_seconds) and self._changed():
                        return True
                    continue
                now = time.monotonic()
                left = min(self._last + QUIET_SECONDS, self._since + LONGEST_WAIT) - now
                if left <= 0:
                    self._since = None
                    return True
                self._due.wait(left)
        return False

    def _changed(self) -> bool:
        """Is the folder another one than was followed, or gone, or may its files come back?"""
        return identity(self._root) != self._followed or not self._hearing() or self.presence.absent
