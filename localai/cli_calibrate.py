"""`localai doctor --calibrate`: measure every engine with a model now, in this process, with progress and a table."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from localai.cli import progress_line, say, show
from localai.config import Config

if TYPE_CHECKING:
    from localai.calibration_store import CalibrationStore
    from localai.kv_trials import KvTrials
    from localai.local_model import LocalModel


def calibrate(config: Config, model: str, as_json: bool) -> None:
    """Measure all backends that can run `model` anew and print what was found. Raises LocalaiError."""
    from localai.calibration_store import CalibrationStore, identity
    from localai.calibration_text import row, tables
    from localai.catalog import Catalog
    from localai.device import inspect
    from localai.laboratory import Laboratory
    from localai.library import Library
    from localai.lifecycle import make_folders
    from localai.offers import offers
    from localai.orders import Orders
    from localai.tested import TestedSettings

    make_folders(config.home)
    chosen = Library(config.home, Catalog.load(config.home)).resolve(model or config.default_model)
    device, store = inspect(config.home), CalibrationStore(config.home)
    laboratory = Laboratory(Orders(config, device), TestedSettings(config.home / "tested.json"), store)
    # Known readings go first: what is asked for is what holds today.
    store.forget(device.fingerprint, identity(chosen))
    skipped = {offer.backend: offer.problem for offer in offers(chosen) if offer.problem}
    for problem in skipped.values():
        say(f"not measured: {problem}")
    free = config.ram or device.memory.available
    asyncio.run(_all_passes(laboratory, chosen, free))
    measure_kv(config, chosen, store)
    records = store.records(device.fingerprint, identity(chosen))
    found: dict[str, Any] = {"model": chosen.id, "results": [row(r) for r in records], "not_measured": skipped}
    show(found, as_json, lambda _: "\n".join(tables(records)))


def measure_kv(config: Config, model: LocalModel, store: CalibrationStore) -> None:
    """Measure what KV types cost with `model`, where that is not known. Raises LocalaiError."""
    from localai.device import inspect
    from localai.kv_trials import KvTrials
    from localai.lifecycle import make_folders
    from localai.orders import Orders
    from localai.tested import TestedSettings

    make_folders(config.home)
    device = inspect(config.home)
    trials = KvTrials(Orders(config, device), TestedSettings(config.home / "tested.json"), store)
    asyncio.run(_all_kv(trials, model.base or model, config.ram or device.memory.available))


async def _all_kv(trials: KvTrials, model: LocalModel, free: int) -> None:
    begun = round(time.time(), 1)
    while (trial := trials.next(model, begun)) is not None:
        progress_line(f"measuring {trial}")
        reading = await trials.run(trial, free)
        progress_line("")
        click.echo(f"{trial}: {reading.problem or f'{len(reading.surprises)} tokens read'}", err=True)


async def _all_passes(laboratory: Any, model: Any, free: int) -> None:
    from localai.laboratory import PASSES

    count = len(laboratory.candidates(model, every=True))
    done = 0
    while (candidate := laboratory.next(model, every=True)) is not None:
        progress_line(f"measuring {candidate}, pass {done // count + 1} of at most {PASSES}")
        record = await laboratory.run_pass(candidate, free)
        done += 1
        progress_line("")
        state = record.verdict or f"pass {record.passes}, {record.spent_s:.0f} s so far"
        click.echo(f"{candidate}: {state}", err=True)
