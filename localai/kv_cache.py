"""The daemon's part of the KV cache: shares for the children, room on the SSD, counters. It moves no block itself.

Settings and the children's reports enter; grants and the names of removed blocks leave.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from backends.errors import EngineDied
from backends.handle import EngineHandle
from backends.kv import upkeep
from backends.kv.index import IndexUnusable
from backends.kv_frames import KvGrant, KvReport, Purged
from localai.config import Config
from localai.metrics import KvMetrics

_log = logging.getLogger(__name__)

_HIGH, _LOW = 0.95, 0.85
"""Shares of the cap: above the first, blocks go until the second, so that children find room at once."""
_FREE = 0.5
"""Share of the free disk that the cache may take, whatever the setting says."""
_PAUSE_S = 1.0
_PURGE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPurged:
    """What a purge removed: `blocks` and `sequences` that quoted, and blocks that nobody could read (`unread`).

    `silent` engines have not confirmed it; `problem` is why the SSD could not be purged, '' where it was.
    """

    blocks: int
    sequences: int
    unread: int
    silent: int
    problem: str


class KvCache:
    """One per home. `children` are the running engines."""

    def __init__(self, config: Config, metrics: KvMetrics, children: Callable[[], Iterable[EngineHandle]]) -> None:
        self._folder = config.kv_folder
        self._ram = config.kv_ram
        self._trace = str(Path(config.kv_trace).expanduser().absolute()) if config.kv_trace else ""
        self._metrics = metrics
        self._children = children
        self._seen: WeakKeyDictionary[EngineHandle, KvReport] = WeakKeyDictionary()
        self._looked = 0.0
        self._problem = ""
        self._task: asyncio.Task[None] | None = None
        self.granted: Callable[[], int] = lambda: 0
        self.cap = _cap(config)

    async def start(self) -> None:
        """Sweep up after the last daemon, and shrink to a cap that may have become smaller."""
        if self.cap or self._folder.exists():
            await asyncio.to_thread(self._begin)

    def _begin(self) -> None:
        try:
            found = upkeep.sweep(self._folder)
            gone = upkeep.trim(self._folder, self.cap)
        except IndexUnusable as error:
            _log.warning("the KV cache on the SSD is not used: %s", error)
            return
        if found.orphans or found.missing or gone:
            _log.info("KV cache: %d orphans, %d lost, %d over the cap", found.orphans, found.missing, len(gone))

    def share(self) -> int:
        """Bytes of RAM for a new child: half of what others were not granted, so that more may come."""
        return max(0, self._ram - self.granted()) // 2

    def grant(self, ram: int) -> KvGrant:
        """What a child with so many bytes of RAM may use."""
        folder = str(self._folder) if self.cap else ""
        return KvGrant(ram=ram, ssd=self.cap, folder=folder, trace=self._trace)

    def note(self, child: EngineHandle, report: KvReport) -> None:
        """Count what a child reports, and make room on the SSD before it runs short."""
        before = self._seen.get(child)
        self._seen[child] = report
        self._metrics.count(report, before)
        short = before is None or report.short > before.short
        idle = self._task is None or self._task.done()
        if self.cap and idle and (short or time.monotonic() - self._looked > _PAUSE_S):
            self._looked = time.monotonic()
            self._task = asyncio.create_task(self._make_room(short))

    async def _make_room(self, short: bool) -> None:
        try:
            gone = await asyncio.to_thread(self._trim, short)
        except IndexUnusable as error:
            # Tried again with every answer; said once.
            if str(error) != self._problem:
                _log.warning("no room can be made in the KV cache: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        if gone:
            self._metrics.evicted("ssd", len(gone))
            for child in self._children():
                child.forget(gone)

    def _trim(self, short: bool) -> list[bytes]:
        held = upkeep.totals(self._folder)["bytes"]
        return upkeep.trim(self._folder, int(_LOW * self.cap)) if short or held > _HIGH * self.cap else []

    async def purge(self, pieces: list[bytes]) -> KvPurged:
        """Forget all KV whose text has one of `pieces`, in the engines' cells, in RAM and on the SSD; none: all of it.

        Blocks of models that are not loaded go all: without their vocabulary nobody can tell what they say.
        """
        children = list(self._children())
        asked = (asyncio.wait_for(child.purge(pieces), _PURGE_S) for child in children)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        done = [answer for answer in answers if isinstance(answer, Purged)]
        for answer in answers:
            # An engine that died takes its memory with it; one that is silent is told of in the receipt.
            if isinstance(answer, BaseException) and not isinstance(answer, EngineDied | TimeoutError):
                raise answer
        roots = [root for answer in done for root in answer.roots]
        try:
            gone = await asyncio.to_thread(upkeep.purge, self._folder, roots)
            problem = ""
        except IndexUnusable as error:
            gone, problem = [], str(error)
        for child in children:
            child.forget(gone)
        return KvPurged(
            blocks=sum(answer.blocks for answer in done),
            sequences=sum(answer.sequences for answer in done),
            unread=len(gone),
            silent=sum(isinstance(answer, TimeoutError) for answer in answers),
            problem=problem,
        )

    def refresh(self) -> None:
        """Bring the gauges up to date. Reads the index."""
        reports = [child.kv for child in self._children() if child.kv is not None]
        self._metrics.hold("ram", sum(r.ram_bytes for r in reports), sum(r.ram_blocks for r in reports))
        try:
            found = upkeep.totals(self._folder) if self.cap else {"bytes": 0, "blocks": 0}
        except IndexUnusable:
            return
        self._metrics.hold("ssd", found["bytes"], found["blocks"])

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})


def _cap(config: Config) -> int:
    """The configured cap, or less where the disk has less to give."""
    if not config.kv_ssd:
        return 0
    folder = config.kv_folder
    try:
        taken = upkeep.totals(folder)["bytes"]
    except IndexUnusable:
        taken = 0
    return min(config.kv_ssd, taken + int(_FREE * shutil.disk_usage(_existing(folder)).free))


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
