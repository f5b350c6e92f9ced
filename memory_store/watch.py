"""Folders that the memory follows: changes on the disk enter, calls to an Ingest leave, once things are quiet.

Events only say where to look; what is true is read from the disk, so lost or doubled events cost nothing.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Thread

from pathspec import GitIgnoreSpec
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from memory_store.documents import kinds
from memory_store.errors import InvalidMemory, MemoryStoreError
from memory_store.ingest import Ingest, Ingested

QUIET_SECONDS = 0.5
LONGEST_WAIT = 5.0
LOOK_SECONDS = 10.0
"""How often a folder itself is looked for: that it was moved away, or is back, is told by no event."""
IGNORE_FILES = (".gitignore", ".localaiignore")
ALWAYS_IGNORED = (
    ".*", "node_modules/", "__pycache__/", "*.pyc", "~*", "*~", "*.swp", "*.tmp", "*.part", "*.lock",
    "venv/", "build/", "dist/", "target/",
)  # fmt: skip


def files(root: Path) -> Iterator[Path]:
    """The readable documents under `root` in order; ignore rules apply, links are not followed.

    Raises InvalidMemory where there is no such folder.
    """
    if not root.is_dir():
        raise InvalidMemory(f"{root.name!r} is no folder", "check that it is still there")
    rules: dict[Path, GitIgnoreSpec] = {}
    for folder, inner, names in os.walk(root, followlinks=False):
        here = Path(folder)
        rules[here] = _rules(here, root)
        above = [(base, spec) for base, spec in rules.items() if base == here or base in here.parents]
        inner[:] = sorted(n for n in inner if not (here / n).is_symlink() and not _ignored(here / n, above, "/"))
        for name in sorted(names):
            path = here / name
            plain = path.suffix.lower() in kinds() and not path.is_symlink() and path.is_file()
            if plain and not _ignored(path, above, ""):
                yield path


def _rules(folder: Path, root: Path) -> GitIgnoreSpec:
    lines = list(ALWAYS_IGNORED) if folder == root else []
    for name in IGNORE_FILES:
        try:
            lines += (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # most folders have none
    return GitIgnoreSpec.from_lines(lines)


def _ignored(path: Path, rules: list[tuple[Path, GitIgnoreSpec]], end: str) -> bool:
    """The deepest folder with an opinion decides."""
    for base, spec in reversed(rules):
        verdict = spec.check_file(path.relative_to(base).as_posix() + end).include
        if verdict is not None:
            return verdict
    return False


def sync(ingest: Ingest, root: Path, *, again: bool = False) -> Iterator[Ingested]:
    """Make the memory hold what the folder holds, file by file. Raises InvalidMemory where the folder is gone.

    A folder that is gone takes nothing with it: it may be on a disk that is not there just now.
    """
    present = list(files(root))
    under, there = f"{root}{os.sep}", {str(path) for path in present}
    removed = ingest.remove([Path(name) for name in sorted(ingest.named() - there) if name.startswith(under)])
    if removed:
        yield Ingested(path=str(root), removed=removed)
    yield from ingest.put_many(present, again=again)


class Watch(FileSystemEventHandler):
    """Follows one folder until closed; where it is not there, it is followed once it is back.

    `told` hears of every file that was looked at and every failure, `begins` that all files are looked at now.
    """

    def __init__(
        self,
        ingest: Ingest,
        root: Path,
        told: Callable[[Ingested], None],
        begins: Callable[[], None] = lambda: None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._ingest = ingest
        self._root = root
        self._told = told
        self._begins = begins
        self._look_seconds = look_seconds
        self._followed: tuple[int, int] | None = None
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

    def close(self) -> None:
        with self._due:
            self._closed = True
            self._due.notify()
        self._observer.stop()
        self._observer.join()
        self._thread.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write"):
            self._touch(0.0)

    def _touch(self, shift: float) -> None:
        with self._due:
            self._last = time.monotonic() + shift
            self._since = self._last if self._since is None else self._since
            self._due.notify()

    def _attach(self) -> None:
        """Hear of what happens in the folder that is there now, in place of the one before. Raises OSError."""
        found = _identity(self._root)
        if found == self._followed and self._hearing():
            return
        self._observer.unschedule_all()
        self._followed = None
        if found is not None:
            self._observer.schedule(self, str(self._root), recursive=True)
            self._followed = found

    def _hearing(self) -> bool:
        return all(emitter.is_alive() for emitter in self._observer.emitters)

    def _run(self) -> None:
        while self._wait():
            try:
                self._attach()
                if self._followed is None:
                    told = "there is no folder just now: what it said stays, and it is followed again once it is back"
                    self._told(Ingested(path=str(self._root), problem=told, hint="bring it back, or `watch --stop`"))
                    continue
                self._begins()
                for done in sync(self._ingest, self._root):
                    self._told(done)
                    if self._closed:
                        return
            except MemoryStoreError as error:
                self._told(Ingested(path=str(self._root), problem=error.message, hint=error.hint))
            except OSError as error:
                problem = f"the folder cannot be watched: {error.strerror}"
                self._told(Ingested(path=str(self._root), problem=problem, hint="raise the limit of watches"))

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
        """Is the folder another one than was followed, or gone?"""
        return _identity(self._root) != self._followed or not self._hearing()


def _identity(folder: Path) -> tuple[int, int] | None:
    """None where there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None
