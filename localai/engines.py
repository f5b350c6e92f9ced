"""How this daemon loads an engine: memory planned from the header, settings from the ladder, the load in the ledger."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backends.contract import Load, StepRecord
from backends.errors import BackendError, EngineDied
from backends.gguf import read_shards
from localai import budget
from localai.calibrate import Calibrator
from localai.config import Config
from localai.device import Device, inspect
from localai.errors import LocalaiError, OutOfResources, from_backend
from localai.kv_cache import KvCache
from localai.ladder import climb
from localai.ledger import Ledger
from localai.pool import Loaded, Plan
from localai.router import Choice
from localai.tested import Key, TestedSettings, Verdict

_log = logging.getLogger(__name__)

_LIBRARY = {"llama.cpp": "llama-cpp-python"}
N_SEQ = 32


class Engines:
    """Plans and loads for one device and configuration; its methods are what `Pool` is made of."""

    def __init__(
        self, config: Config, device: Device, tested: TestedSettings, ledger: Ledger, kv_cache: KvCache
    ) -> None:
        self._config = config
        self._device = device
        self._tested = tested
        self._ledger = ledger
        self._kv = kv_cache
        self.charged: Callable[[], int] = lambda: 0
        self.granted: Callable[[], int] = lambda: 0
        self.calibrator: Calibrator | None = None

    def memory(self) -> int:
        """Bytes that all engines together may take: the configured budget, or what is free now and theirs already."""
        if self._config.ram:
            return self._config.ram
        memory = inspect(self._config.home).memory
        return memory.available + self.charged() - budget.margin(memory.total)

    def plan(self, choice: Choice, free: int) -> Plan:
        """See `pool.PlanFor`."""
        if choice.backend == "echo":
            return Plan(choice.n_ctx or 4096, 0, self._kv.share(self.granted()))
        try:
            # What counts is the sum of all shards; the first one's metadata speaks for the rest.
            headers = read_shards(choice.model.path)
        except BackendError as error:
            raise from_backend(error) from error
        extra = sum(h.weight_bytes for h in headers[1:])
        n_ctx = budget.served_context(headers[0], choice.n_ctx, free - extra, self._config.kv_type)
        need = budget.charge(headers[0], n_ctx, self._config.kv_type).total + extra
        shelf = max(0, min(self._kv.share(self.granted()), free - need))
        return Plan(n_ctx, need + shelf, shelf)

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
            rung = await climb(
                self._order(choice, plan),
                self._key(choice),
                self._tested,
                log=self._log_file(choice),
                on_stage=on_stage,
                on_step=on_step,
            )
        except LocalaiError as error:
            self._ledger.note_load(row | {"error": error.message, "total_ms": _since(begun)})
            raise
        info = rung.handle.info
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

        if self.calibrator is not None:
            self.calibrator.want(rung, plan.total, self._log_file(choice))

        def note_death(death: EngineDied) -> None:
            try:
                bad = self._tested.record(rung.key, rung.setting, Verdict("died", death.cause, death.step))
            except OutOfResources as error:
                _log.warning("the death of %s is not remembered: %s", choice.backend, error.message)
                return
            if bad:
                _log.warning("%s is not used again with %s on this device", choice.backend, rung.setting)

        return Loaded(rung.handle, note_death, tuple(self._tested.turned_off(rung.key)))

    def _order(self, choice: Choice, plan: Plan) -> Load:
        config = self._config
        return Load(
            backend=choice.backend,
            path=str(choice.model.path),
            n_ctx=plan.n_ctx,
            n_seq=N_SEQ,
            threads=config.threads or self._device.cpu.threads,
            kv_type=config.kv_type,
            gpu_layers=config.gpu_layers,
            kv=self._kv.grant(plan.shelf),
            digest=choice.model.digest or "",
        )

    def _key(self, choice: Choice) -> Key:
        package = _LIBRARY.get(choice.backend)
        library = f"{package} {version(package)}" if package else "built in"
        header = choice.model.header
        model = f"{header.architecture} {header.quant}" if header else choice.model.id
        return Key(self._device.fingerprint, choice.backend, library, model)

    def _log_file(self, choice: Choice) -> Path:
        name = "".join(c if c.isalnum() or c in "-._" else "-" for c in choice.model.id)
        return self._config.logs / f"engine-{name}.log"


def _since(begun: float) -> float:
    return round(1000 * (time.monotonic() - begun), 1)
