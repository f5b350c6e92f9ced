"""Care for the blocks on the SSD as a whole: make room, sweep up, verify, clear. For the daemon and its commands.

Works on the folder alone, beside running children: they find missing blocks missing and compute them again.
Raises IndexUnusable where the folder cannot be used.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.kv import block_file
from backends.kv.block_file import SUFFIX, UNFINISHED, BadBlock
from backends.kv.index import NAME, Index, Row
from backends.kv.policy import ExpectedSaving, Facts, Policy


@dataclass(frozen=True, slots=True)
class Stats:
    """Of all blocks on the SSD; `tokens` counts each block once, `models` the roots that they hang on."""

    blocks: int
    bytes: int
    tokens: int
    models: int
    written: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What was found and removed: `bad` blocks, rows `missing` their file, `orphans` without a row."""

    blocks: int
    bad: int
    missing: int
    orphans: int
    orphan_bytes: int


@contextmanager
def _opened(folder: Path) -> Iterator[Index]:
    index = Index(folder)
    try:
        yield index
    finally:
        index.close()


def stats(folder: Path) -> Stats:
    """Counts from the index; zeros where there is no cache yet."""
    if not (folder / NAME).exists():
        return Stats(0, 0, 0, 0, 0, 0)
    with _opened(folder) as index:
        totals, rows = index.totals(), index.rows()
    tokens, roots = sum(len(row.tokens) for row in rows), {row.root for row in rows}
    return Stats(totals["blocks"], totals["bytes"], tokens, len(roots), totals["written"], totals["evicted"])


def totals(folder: Path) -> dict[str, int]:
    """See `Index.totals`; zeros where there is no cache yet."""
    if not (folder / NAME).exists():
        return {"bytes": 0, "blocks": 0, "written": 0, "evicted": 0}
    with _opened(folder) as index:
        return index.totals()


def trim(folder: Path, target: int, policy: Policy | None = None, *, spare_leased: bool = True) -> list[bytes]:
    """Remove the blocks least worth keeping until at most `target` bytes are left; return their keys.

    A block goes before the one that it continues, one that continues nothing at once, a leased one not at all.
    """
    with _opened(folder) as index:
        size = index.totals()["bytes"]
        if size <= target:
            return []
        gone: list[bytes] = []
        leased = index.leased() if spare_leased else set()
        for row in _by_worth(index.rows(), policy or ExpectedSaving(), leased):
            if size <= target:
                break
            block_file.place(folder, row.key).unlink(missing_ok=True)
            gone.append(row.key)
            size -= row.bytes
        index.forget(gone, evicted=True)
    return gone


def _by_worth(rows: Iterable[Row], policy: Policy, kept: set[bytes]) -> Iterator[Row]:
    by_key = {row.key: row for row in rows}
    children = dict.fromkeys(by_key, 0)
    for row in by_key.values():
        if row.parent in children:
            children[row.parent] += 1
    now = time.time()
    span = now - min((row.used for row in by_key.values()), default=now)

    def entry(row: Row) -> tuple[float, bytes]:
        stray = row.parent not in by_key and row.parent != row.root
        found = Facts(row.bytes, row.cost_s, row.uses, row.created, row.used)
        return (-1.0 if stray else policy.worth(found, now, span)), row.key

    movable = {row.key for row in by_key.values() if row.key not in kept and (row.ready or not _alive(row.owner))}
    heap = [entry(by_key[key]) for key in movable if not children[key]]
    heapq.heapify(heap)
    while heap:
        row = by_key[heapq.heappop(heap)[1]]
        yield row
        if row.parent in children:
            children[row.parent] -= 1
            if not children[row.parent] and row.parent in movable:
                heapq.heappush(heap, entry(by_key[row.parent]))


def sweep(folder: Path, *, read: bool = False) -> Swept:
    """Remove what a process that died left behind; with `read` also every block whose bytes have changed."""
    # Files first: a row is made before its file and removed after it, so a file without a row is nobody's.
    files = list(folder.glob(f"*/*{SUFFIX}")) if folder.is_dir() else []
    unfinished = list(folder.glob(f"*/*{UNFINISHED}")) if files or folder.is_dir() else []
    with _opened(folder) as index:
        rows = index.rows()
        known = {block_file.place(folder, row.key) for row in rows}
        strays = [path for path in files if path not in known]
        strays += [path for path in unfinished if not _alive(_writer_of(path))]
        sizes = [_remove(path) for path in strays]
        settled = [row for row in rows if row.ready or not _alive(row.owner)]
        missing = [r.key for r in settled if not r.ready or not block_file.place(folder, r.key).exists()]
        bad = [r.key for r in settled if read and r.key not in set(missing) and not _sound(folder, r.key)]
        for key in (*missing, *bad):
            _remove(block_file.place(folder, key))
        index.forget([*missing, *bad])
    return Swept(len(rows), len(bad), len(missing), len(strays), sum(sizes))


def purge(folder: Path, spared: Iterable[bytes]) -> list[bytes]:
    """Remove every block that hangs on none of the roots `spared`; returns their keys.

    Then the index is written anew, so that no token of a removed block is left in its file.
    """
    if not (folder / NAME).exists():
        return []
    kept = set(spared)
    with _opened(folder) as index:
        gone = [row.key for row in index.rows() if row.root not in kept]
        for key in gone:
            _remove(block_file.place(folder, key))
        index.forget(gone)
        index.rewrite()
    return gone


def clear(folder: Path) -> Stats:
    """Remove every block; return what there was."""
    before = stats(folder)
    if (folder / NAME).exists():
        trim(folder, 0, spare_leased=False)
        sweep(folder)
    return before


def as_json(found: Stats | Swept) -> dict[str, int]:
    return asdict(found)


def _sound(folder: Path, key: bytes) -> bool:
    try:
        block_file.read(block_file.place(folder, key), key)
    except BadBlock:
        return False
    return True


def _remove(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def _writer_of(path: Path) -> int:
    number = path.name.removesuffix(UNFINISHED).rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
