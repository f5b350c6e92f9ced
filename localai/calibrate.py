"""Measures what a load would take too long to measure, in the background, only while nothing else runs.

A loaded engine's order enters; rates go into `tested`, where the next load finds them. A request stops a measurement
at once; it starts again when the daemon has been idle for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from backends.contract import KvGrant, Load
from backends.errors import BackendError
from backends.handle import EngineHandle
from localai.errors import LocalaiError
from localai.ladder import Rung
from localai.tested import Key, TestedSettings
from localai.wait_policy import POLICIES, WaitPolicy, best_policy, policy_key

_log = logging.getLogger(__name__)

_IDLE_S = 3.0
_LOOK_S = 1.0
_LIMIT_S = 30.0
_LARGEST = 2**30
"""Bytes; the model is loaded once more for each policy, which a large one would make too dear."""


def _ignore_stage(_: str, __: float) -> None:
    pass


class Calibrator:
    """One measurement at a time. `busy` tells whether a request or a load is running."""

    def __init__(self, tested: TestedSettings, busy: Callable[[], bool]) -> None:
        self._tested = tested
        self._busy = busy
        self._task: asyncio.Task[None] | None = None

    def want(self, rung: Rung, size: int, log: Path) -> None:
        """Measure the wait policies with this engine's model of `size` bytes, unless that is known or too dear."""
        running = self._task is not None and not self._task.done()
        if running or size > _LARGEST or not rung.handle.rates or best_policy(self._tested, rung.key):
            return
        self._task = asyncio.create_task(self._measure(rung.handle.order, rung.key, log))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _measure(self, order: Load, key: Key, log: Path) -> None:
        fresh = msgspec.structs.replace(order, prove=False, rates={}, kv=KvGrant())
        try:
            for policy in POLICIES:
                rates = await self._rates(fresh, policy, log)
                self._tested.record_threads(policy_key(key, policy), rates)
                _log.info("wait policy %r: token/s by threads: %s", policy.name, rates)
        except (BackendError, LocalaiError, TimeoutError) as error:
            _log.warning("the wait policies could not be measured: %s", error)

    async def _rates(self, order: Load, policy: WaitPolicy, log: Path) -> dict[int, float]:
        """Decode rates under `policy`; starts over as often as a request comes between."""
        while True:
            await self._until_idle()
            starting = asyncio.create_task(
                EngineHandle.start(order, log=log, env=policy.environment, on_stage=_ignore_stage)
            )
            try:
                async with asyncio.timeout(_LIMIT_S):
                    while not starting.done() and not self._busy():
                        await asyncio.wait({starting}, timeout=0.1)
                if starting.done():
                    handle = starting.result()
                    await handle.stop()
                    return handle.rates
            finally:
                starting.cancel()
                await asyncio.wait({starting})

    async def _until_idle(self) -> None:
        quiet = 0.0
        while quiet < _IDLE_S:
            await asyncio.sleep(_LOOK_S)
            quiet = 0.0 if self._busy() else quiet + _LOOK_S
