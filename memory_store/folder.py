"""What lies in a folder: its documents by the ignore rules, what could not be looked into, and where other disks begin.

A path enters, a Listing leaves. It knows nothing of the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from memory_store.documents import kinds
from memory_store.errors import InvalidMemory

IGNORE_FILES = (".gitignore", ".localaiignore")
ALWAYS_IGNORED = (
    ".*", "node_modules/", "__pycache__/", "*.pyc", "~*", "*~", "*.swp", "*.tmp", "*.part", "*.lock",
    "venv/", "build/", "dist/", "target/",
)  # fmt: skip
_Rules = Sequence[tuple[Path, GitIgnoreSpec]]
_Refused = Callable[[OSError], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which folder this is: its number on its device, and the device by the system's number and by its own, 0 where it
    has none. The system's number of a disk may be another after a restart."""

    device: int
    inode: int
    filesystem: int

    def same(self, other: Identity) -> bool:
        alike = self.device == other.device or (self.filesystem == other.filesystem != 0)
        return alike and self.inode == other.inode


@dataclass(frozen=True, slots=True)
class Listing:
    """`unread`: folders and files that are there, with the reason why they cannot be looked at. `parts`: the folder
    itself as "", and the folders below it where another device begins, by their paths from it."""

    files: tuple[Path, ...]
    unread: dict[Path, str]
    parts: dict[str, Identity]

    def hidden(self, path: Path) -> bool:
        """Whether it may be there, in something that could not be looked into."""
        return any(path == place or place in path.parents for place in self.unread)


def identity(folder: Path) -> Identity | None:
    """None where there is no folder that can be looked at."""
    try:
        found, disk = folder.stat(), os.statvfs(folder)
    except OSError:
        return None
    return Identity(found.st_dev, found.st_ino, disk.f_fsid) if stat.S_ISDIR(found.st_mode) else None


def listing(root: Path) -> Listing:
    """The readable documents under `root` in order; ignore rules apply, links are not followed.

    Raises InvalidMemory where there is no such folder.
    """
    own = identity(root)
    if own is None:
        raise InvalidMemory(f"{root.name!r} is no folder", "check that it is still there")
    files: list[Path] = []
    unread: dict[Path, str] = {}
    parts, devices = {"": own}, {root: own.device}
    rules: dict[Path, GitIgnoreSpec] = {}

    def refused(error: OSError) -> None:
        unread[Path(os.fsdecode(error.filename))] = error.strerror or str(error)

    for folder, inner, names in os.walk(root, onerror=refused, followlinks=False):
        here = Path(folder)
        try:
            rules[here] = _rules(here, root)
        except OSError as error:
            # What is to be ignored here cannot be told: nothing of it is read.
            unread[here] = error.strerror or str(error)
            inner.clear()
            continue
        above = [(base, spec) for base, spec in rules.items() if base == here or base in here.parents]
        kept = []
        for name in sorted(inner):
            path = here / name
            if not _ignored(path, above, "/") and (device := _device(path, refused)) is not None:
                kept.append(name)
                devices[path] = device
                if device != devices[here] and (found := identity(path)) is not None:
                    parts[path.relative_to(root).as_posix()] = found
        inner[:] = kept
        files += [path for name in sorted(names) if _document(path := here / name, above, refused)]
    return Listing(tuple(files), unread, parts)


def _device(folder: Path, refused: _Refused) -> int | None:
    """None for a link, and for what cannot be looked at, which is told."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        refused(error)
        return None
    return found.st_dev if stat.S_ISDIR(found.st_mode) else None


def _document(path: Path, rules: _Rules, refused: _Refused) -> bool:
    if path.suffix.lower() not in kinds() or _ignored(path, rules, ""):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        refused(error)
        return False


def _rules(folder: Path, root: Path) -> GitIgnoreSpec:
    """Raises OSError where there are some that cannot be read."""
    lines = list(ALWAYS_IGNORED) if folder == root else []
    for name in IGNORE_FILES:
        try:
            lines += (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, IsADirectoryError):
            continue  # most folders have none
    return GitIgnoreSpec.from_lines(lines)


def _ignored(path: Path, rules: _Rules, end: str) -> bool:
    """The deepest folder with an opinion decides."""
    for base, spec in reversed(rules):
        verdict = spec.check_file(path.relative_to(base).as_posix() + end).include
        if verdict is not None:
            return verdict
    return False
