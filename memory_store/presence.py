"""Are files that a folder lacks gone, or is their disk not there just now?

What a folder holds, what was read from it and what was seen to go enter; what is gone and what is in doubt leaves. An
empty mount point looks like a folder whose files were deleted. So a folder that is another one than before, or that is
not on the memory's own disk and holds none of its files, proves nothing: only deletions that were seen do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from memory_store.folder import Identity, Listing, identity


@dataclass(frozen=True, slots=True)
class Doubt:
    """`lacking` of the `known` files of `folder` are not there, and nobody has seen them go."""

    folder: Path
    lacking: int
    known: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`parts`: what is to be remembered of the folder and of other disks in it. `seen`: deletions that were judged."""

    gone: tuple[Path, ...]
    doubts: tuple[Doubt, ...]
    parts: dict[str, Identity]
    seen: frozenset[Path]


class Presence:
    """Of one folder. Usable from two threads: one that hears of deletions, and one that judges."""

    def __init__(self, root: Path, beside: Path, parts: Mapping[str, Identity] | None = None) -> None:
        """`beside`: the memory's own file, whose disk is there whenever this runs. `parts`: what was remembered."""
        own = identity(beside.parent)
        self.root = root
        self._own_device = None if own is None else own.device
        self.parts: dict[str, Identity] = dict(parts or {})
        self.doubts: tuple[Doubt, ...] = ()
        self.confirmed = False
        self._seen: set[Path] = set()
        self._lock = Lock()

    @property
    def absent(self) -> bool:
        """Whether the folder itself is in doubt, and not only another disk below it."""
        return any(doubt.folder == self.root for doubt in self.doubts)

    def witness(self, path: Path) -> None:
        """A file or folder was seen to go. What happens in the place of a folder that is not there tells nothing."""
        if not self.doubts and self.root in path.parents:
            with self._lock:
                self._seen.add(path)

    def confirm(self) -> None:
        """A person says that all that is lacking is gone."""
        self.confirmed, self.doubts = True, ()

    def judge(self, found: Listing, known: Iterable[Path]) -> Verdict:
        """`known`: the files under the folder of which something is remembered."""
        with self._lock:
            seen = frozenset(self._seen)
        there = set(found.files)
        gone: list[Path] = []
        doubts: list[Doubt] = []
        parts = dict(found.parts)
        for name, mine in self._by_part(known, {*found.parts, *self.parts}).items():
            lacking = [path for path in mine if path not in there and not found.hidden(path)]
            unseen = [path for path in lacking if path not in seen and seen.isdisjoint(path.parents)]
            if unseen and not self.confirmed and self._may_be_elsewhere(name, found, len(mine) - len(lacking), mine):
                doubts.append(Doubt(self.root / name, len(unseen), len(mine)))
                lacking = sorted(set(lacking) - set(unseen))
                parts = {other: of for other, of in parts.items() if other != name}
                parts |= {name: self.parts[name]} if name in self.parts else {}
            gone += lacking
        return Verdict(tuple(gone), tuple(doubts), parts, seen)

    def settle(self, verdict: Verdict) -> None:
        """What is gone has been removed."""
        self.parts, self.doubts, self.confirmed = verdict.parts, verdict.doubts, False
        with self._lock:
            self._seen -= verdict.seen

    def _may_be_elsewhere(self, name: str, found: Listing, present: int, known: list[Path]) -> bool:
        now, before = found.parts.get(name), self.parts.get(name)
        if now is None or before is None or not now.same(before):
            return 2 * present < len(known)
        return not present and now.device != self._own_device

    def _by_part(self, known: Iterable[Path], names: Iterable[str]) -> dict[str, list[Path]]:
        """Each file with the deepest part that it is in."""
        deepest = sorted(((self.root / name, name) for name in names), key=lambda part: -len(part[0].parts))
        divided: dict[str, list[Path]] = {}
        for path in known:
            name = next((name for folder, name in deepest if folder in path.parents), "")
            divided.setdefault(name, []).append(path)
        return divided
