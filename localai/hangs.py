"""The watchdog: an engine that owes an answer and shows no sign of life is killed, and a new one starts.

Running engines enter. A sign of life is a step, or CPU time taken: a step may last minutes on a slow machine, but one
that neither ends nor computes will never end. It knows nothing of models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from backends.handle import EngineHandle

_log = logging.getLogger(__name__)

_LOOKS = 10
"""Looks within the limit: time in which this daemon itself stood still, as in a suspend, counts as one."""
_LONGEST_STEP = 15
"""A step that computes may take this many times the limit."""


class Hangs:
    """Looks after the engines of `engines`; `limit` is seconds, 0 for never. Starts at once, within a running loop."""

    def __init__(self, engines: Callable[[], Sequence[EngineHandle]], limit: float) -> None:
        self._engines = engines
        self._limit = limit
        self._seen: dict[EngineHandle, _Seen] = {}
        self._task = asyncio.create_task(self._watch()) if limit else None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._limit / _LOOKS)
            owing = [engine for engine in self._engines() if engine.owing]
            self._seen = {engine: self._seen.get(engine) or _Seen(engine) for engine in owing}
            for engine, seen in self._seen.items():
                if seen.hangs(engine):
                    _log.error("engine %s shows no sign of life for %g s, and is killed", engine.pid, self._limit)
                    engine.kill()


class _Seen:
    """What was last seen of one engine, and how many looks ago that changed."""

    def __init__(self, engine: EngineHandle) -> None:
        self._steps, self._cpu = engine.steps, _cpu_seconds(engine)
        self._idle = self._stepless = 0

    def hangs(self, engine: EngineHandle) -> bool:
        steps, cpu = engine.steps, _cpu_seconds(engine)
        self._stepless = self._stepless + 1 if steps == self._steps else 0
        self._idle = self._idle + 1 if self._stepless and cpu == self._cpu else 0
        self._steps, self._cpu = steps, cpu
        return self._idle >= _LOOKS or self._stepless >= _LOOKS * _LONGEST_STEP


def _cpu_seconds(engine: EngineHandle) -> float:
    import psutil

    try:
        times = psutil.Process(engine.pid).cpu_times()
    except psutil.Error:
        # It is ending, which its pipes tell.
        return -1.0
    return float(times.user + times.system)
