"""How this daemon loads an engine: as `orders` says, with settings from the ladder, the load in the ledger."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from backends.contract import StepRecord
from backends.errors import EngineDied
from backends.guesses import Guesses
from backends.paging_report import WeightsReport
from localai import budget
from localai.calibrate import Calibrator
from localai.choice import Choice
from localai.config import Config
from localai.device import memory_now
from localai.energy.meter import Meter
from localai.errors import LocalaiError, OutOfResources
from localai.kv_cache import KvCache
from localai.ladder import Rung, candidates, climb
from localai.ledger import Ledger
from localai.orders import Orders, Plan
from localai.rpc_workers import RpcWorkers, Workers
from localai.slot import Loaded, SlotKey
from localai.spread import spread
from localai.tested import TestedSettings, Verdict

_log = logging.getLogger(__name__)


class Engines:
    """Loads for one device and configuration; its methods are what `Pool` is made of."""

    def __init__(
        self, config: Config, orders: Orders, tested: TestedSettings, ledger: Ledger, kv_cache: KvCache
    ) -> None:
        self._config = config
        self._orders = orders
        self._tested = tested
        self._ledger = ledger
        self._kv = kv_cache
        self._workers = RpcWorkers(config.rpc)
        self._why_alone: dict[SlotKey, str] = {}
        self.charged: Callable[[], int] = lambda: 0
        self.calibrator: Calibrator | None = None
        self.meter: Meter | None = None
        self.paged: Callable[[Choice, WeightsReport], None] = lambda _, __: None
        self.guessed: Callable[[Choice, Guesses], None] = lambda _, __: None

    def memory(self) -> int:
        """Bytes that all engines together may take: the configured budget, or what is free now and theirs already."""
        memory = memory_now()
        if self._config.ram and memory.limit is None:
            return self._config.ram
        # Mapped weights of running engines count as charged, and to the kernel as available too.
        free = min(memory.available + self.charged(), memory.total) - budget.margin(memory.total)
        # A control group kills who takes more than its limit, whatever the setting allows.
        return min(self._config.ram, free) if self._config.ram else free

    def plan(self, choice: Choice, free: int) -> Plan:
        """See `pool.PlanFor`: with RPC workers where those are set and answer, for this machine alone otherwise.

        In a thread: it connects to workers, and reads the file's header.
        """
        found = self._workers.usable_now(choice)
        self._why_alone[choice.key] = found.note
        if found.endpoints:
            return self._orders.spread(choice, free, found.endpoints)
        return self._orders.plan(choice, free)

    def hopeless(self, choice: Choice) -> bool:
        """Whether every setting of the backend died on this device, so that loading it would only fail."""
        return self._tested.hopeless(self._orders.key(choice), candidates(choice.backend))

    def _metered(self, choice: Choice, on_step: Callable[[StepRecord], None]) -> Callable[[StepRecord], None]:
        if self.meter is None:
            return on_step
        tap = self.meter.tap(choice.key)

        def both(record: StepRecord) -> None:
            tap(record)
            on_step(record)

        return both

    async def load(
        self,
        choice: Choice,
        plan: Plan,
        on_stage: Callable[[str, float], None],
        on_step: Callable[[StepRecord], None],
    ) -> Loaded:
        """See `pool.Loader`. Every load, failed ones too, becomes a row in the ledger."""
        begun = time.monotonic()
        row: dict[str, Any] = {"model": choice.model.id, "backend": choice.backend, "charged_bytes": plan.total}
        try:
            rung, note, plan = await self._start(choice, plan, on_stage, self._metered(choice, on_step))
        except LocalaiError as error:
            self._ledger.note_load(row | {"error": error.message, "total_ms": _since(begun)})
            raise
        info = rung.handle.info
        if self.meter is not None:
            self.meter.ready(choice.key, rung.handle)
        rung.handle.on_report = partial(self._kv.note, rung.handle)
        self._ledger.note_load(
            row
            | {
                "version": info.version,
                "n_ctx": info.n_ctx,
                "total_ms": _since(begun),
                "stages": json.dumps(rung.handle.stages | {"in the engine": info.load_stages}),
                "settings": json.dumps(info.settings),
                "resident_bytes": rung.handle.rss,
            }
        )
        _log.info("loaded %s on %s in %.0f ms", choice.model.id, choice.backend, _since(begun))

        remote = bool(rung.handle.order.rpc)
        if self.calibrator is not None and not remote and not plan.weights:
            self.calibrator.want(choice.model, rung, plan.total)

        def note_death(death: EngineDied) -> None:
            if remote:
                # It says more of the other machine and the network than of this device's settings.
                self._workers.rest()
                return
            try:
                bad = self._tested.record(rung.key, rung.setting, Verdict("died", death.cause, death.step))
            except OutOfResources as error:
                _log.warning("the death of %s is not remembered: %s", choice.backend, error.message)
                return
            if bad:
                _log.warning("%s is not used again with %s on this device", choice.backend, rung.setting)

        notes = (*self._tested.turned_off(rung.key), *filter(None, (note, plan.reason)))

        def note_end() -> None:
            if rung.handle.weights is not None and rung.handle.weights.predicted_tps:
                self.paged(choice, rung.handle.weights)
            self.guessed(choice, rung.handle.guesses)

        return Loaded(rung.handle, note_death, notes, note_end, plan)

    async def _start(
        self, choice: Choice, plan: Plan, on_stage: Callable[[str, float], None], on_step: Callable[[StepRecord], None]
    ) -> tuple[Rung, str, Plan]:
        """The engine, with the workers of its plan; what is to be said of that, and the plan that it was loaded by."""
        orders, note = self._orders, self._workers_note(choice, plan)
        order, key, log = orders.order(choice, plan), orders.key(choice), orders.log_file(choice.model)
        if plan.workers:
            try:
                workers = Workers(plan.workers)
                rung = await spread(order, workers, key, self._tested, log=log, on_stage=on_stage, on_step=on_step)
                return rung, note, plan
            except EngineDied as death:
                self._workers.rest()
                note = f"on this machine alone: {death.message}"
                _log.warning("%s is loaded without RPC workers: %s", choice.model.id, death.message)
            # All of it comes here now, and has to fit beside what is loaded.
            plan = await asyncio.to_thread(orders.plan, choice, self.memory() - self.charged())
            order = orders.order(choice, plan)
        rung = await climb(order, key, self._tested, log=log, on_stage=on_stage, on_step=on_step)
        return rung, note, plan

    def _workers_note(self, choice: Choice, plan: Plan) -> str:
        """What the answers say of workers: those that are used, or why none is."""
        return f"with RPC workers {', '.join(plan.workers)}" if plan.workers else self._why_alone.get(choice.key, "")


def _since(begun: float) -> float:
    return round(1000 * (time.monotonic() - begun), 1)
