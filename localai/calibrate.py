"""Measures in the background, only while nothing else runs: wait policies, the backends of models in use, KV types.

A loaded engine enters; what is found goes into `tested` and the calibration store, where loads and the router find it.
A request stops a measurement at once; it goes on from where it was when the daemon has been idle for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backends.contract import Load
from backends.errors import BackendError
from backends.handle import EngineHandle
from backends.kv_frames import KvGrant
from localai.calibration_store import KvReading, Record, Subject
from localai.errors import LocalaiError, OutOfResources
from localai.kv_trials import KvTrials, Trial
from localai.laboratory import DISTURBED, Candidate, Laboratory
from localai.ladder import Rung
from localai.local_model import LocalModel
from localai.tested import TestedSettings
from localai.wait_policy import POLICIES, WaitPolicy, best_policy, policy_key

_log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_S = 3.0
_LOOK_S = 1.0
_LIMIT_S = 30.0
_PATIENCE = 3
"""Disturbed passes of a model that are thrown away before they are kept all the same."""
_LARGEST = 2**30
"""Bytes; the model is loaded once more for each policy, which a large one would make too dear."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A model that was loaded, with the engine that it was loaded into."""

    model: LocalModel
    rung: Rung
    small: bool


class Calibrator:
    """One measurement at a time. `busy` tells whether a request or a load is running, `free` what memory is left.

    A measurement begins when nothing has run for `idle_s` seconds. `doing` says what is measured now, '' for nothing.
    """

    def __init__(
        self,
        tested: TestedSettings,
        laboratory: Laboratory,
        busy: Callable[[], bool],
        free: Callable[[], int],
        idle_s: float = _IDLE_S,
        kv_trials: KvTrials | None = None,
    ) -> None:
        self._tested = tested
        self._laboratory = laboratory
        self._busy = busy
        self._free = free
        self._idle_s = idle_s
        self._kv_trials = kv_trials
        self._queue: dict[str, _Wanted] = {}
        self._task: asyncio.Task[None] | None = None
        self.doing = ""

    def want(self, model: LocalModel, rung: Rung, size: int) -> None:
        """Measure what is not known yet of `model`, which takes `size` bytes as it was loaded."""
        self._queue[model.id] = _Wanted(model, rung, size <= _LARGEST)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _work(self) -> None:
        while self._queue:
            wanted = self._queue.pop(next(iter(self._queue)))
            try:
                await self._wait_policies(wanted)
                await self._backends(wanted.model)
                await self._kv_types(wanted.model)
            except (BackendError, LocalaiError, OSError) as error:
                _log.warning("%s could not be measured: %s", wanted.model.id, error)
            finally:
                self.doing = ""

    # -- how threads wait

    async def _wait_policies(self, wanted: _Wanted) -> None:
        rung = wanted.rung
        if not wanted.small or not rung.handle.rates or rung.key.engine not in ("llama.cpp", "echo"):
            return
        if best_policy(self._tested, rung.key) is not None:
            return
        order = msgspec.structs.replace(rung.handle.order, prove=False, rates={}, kv=KvGrant())
        log = self._laboratory.log_file(wanted.model)
        for policy in POLICIES:
            rates = await self._undisturbed(f"wait policy {policy.name}", partial(_rates, order, policy, log))
            self._tested.record_threads(policy_key(rung.key, policy), rates)
            _log.info("wait policy %r: token/s by threads: %s", policy.name, rates)

    # -- backends

    async def _backends(self, model: LocalModel) -> None:
        """One that does not fit, or that others keep from ending, is left for another time and holds nobody up."""
        disturbed = 0
        left: set[Subject] = set()
        while (candidate := await asyncio.to_thread(self._laboratory.next, model, without=left)) is not None:
            most = DISTURBED if disturbed < _PATIENCE else float("inf")
            try:
                record = await self._undisturbed(f"{model.id} on {candidate}", partial(self._pass, candidate, most))
            except OutOfResources as error:
                _log.info("%s on %s is not measured now: %s", model.id, candidate, error.message)
                left.add(candidate.subject)
                continue
            disturbed += record is None
            if record is None and disturbed > _PATIENCE:
                _log.info("%s on %s is not measured now: other programs keep it from ending", model.id, candidate)
                left.add(candidate.subject)

    async def _pass(self, candidate: Candidate, most_foreign: float) -> Record | None:
        return await self._laboratory.run_pass(candidate, self._free(), most_foreign=most_foreign)

    # -- KV types

    async def _kv_types(self, model: LocalModel) -> None:
        trials = self._kv_trials
        while trials is not None and (trial := await asyncio.to_thread(trials.next, model)) is not None:
            try:
                await self._undisturbed(f"{model.id} on {trial}", partial(self._trial, trials, trial))
            except OutOfResources as error:
                _log.info("%s on %s is not measured now: %s", model.id, trial, error.message)
                return

    async def _trial(self, trials: KvTrials, trial: Trial) -> KvReading:
        return await trials.run(trial, self._free())

    # -- staying out of the way

    async def _undisturbed(self, what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine that nobody's request ran beside; starts over as often as one comes between."""
        while True:
            self.doing = ""
            await self._until_idle()
            self.doing = what
            task = asyncio.create_task(make())
            try:
                while not task.done() and not self._busy():
                    await asyncio.wait({task}, timeout=0.05)
                if task.done():
                    return task.result()
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def _until_idle(self) -> None:
        quiet = 0.0
        look = min(_LOOK_S, self._idle_s)
        while quiet < self._idle_s:
            await asyncio.sleep(look)
            quiet = 0.0 if self._busy() else quiet + look


async def _rates(order: Load, policy: WaitPolicy, log: Path) -> dict[int, float]:
    """Decode rates under `policy`, as a self-test measures them."""
    async with asyncio.timeout(_LIMIT_S):
        handle = await EngineHandle.start(order, log=log, env=policy.environment, on_stage=_ignore_stage)
    await handle.stop()
    return handle.rates


def _ignore_stage(_: str, __: float) -> None:
    pass
