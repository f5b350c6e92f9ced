"""What the daemon is doing, as one dictionary for `localai status` and its clients."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from backends.guesses import Guesses
from backends.paging_report import WeightsReport
from localai import __version__
from localai.calibration_text import best
from localai.choice import Choice
from localai.decoding import paging_json
from localai.energy.report import By, whole
from localai.guess_records import GuessRecord, verdict
from localai.pressure import pressure
from localai.residence import Ahead
from localai.slot import FOREVER, Slot
from localai.turn import Parts

_DAY = 86_400.0


def status(parts: Parts, started: float) -> dict[str, Any]:
    """A snapshot; `started` is the daemon's start in Unix seconds. Runs in a thread: it reads the ledger."""
    config = parts.config
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(time.time() - started, 1),
        "home": str(config.home),
        "socket": str(config.socket),
        "url": f"http://{config.host}:{config.port}" if config.port else None,
        "memory": _memory(parts),
        "engines": [_engine(slot, parts) for slot in parts.pool.slots],
        "ahead": [_ahead(choice, ahead) for choice, ahead in parts.pool.ahead],
        "upstreams": parts.upstreams.report(),
        "pressure": {p.resource: {"some": p.some, "full": p.full} for p in pressure()},
        "measuring": parts.market.measuring(),
        "best": best(parts.market.all_records()),
        "last_day": parts.ledger.totals(time.time() - _DAY),
    }


def spent(parts: Parts, by: By, days: int) -> dict[str, Any]:
    """What `localai energy` prints. Runs in a thread: it reads the ledger."""
    config, meter = parts.config, parts.metering.meter
    rows = parts.ledger.energy(by, time.time() - days * _DAY)
    return {
        **whole(rows, by, days, tariff=config.tariff, currency=config.currency, carbon=config.carbon),
        "quality": meter.basis,
        "sensors": [msgspec.to_builtins(sensor.spec) for sensor in meter.inventory.sensors],
        "since_start": msgspec.to_builtins(meter.totals()),
    }


def _memory(parts: Parts) -> dict[str, Any]:
    """Bytes: the budget of all engines with what is charged to it, and the caps that are set (None where none is)."""
    config, (budget, charged) = parts.config, parts.pool.memory
    return {
        "budget_bytes": budget,
        "charged_bytes": charged,
        "ram_bytes": config.ram or None,
        "vram_bytes": config.vram or None,
        "kv_ram_bytes": config.kv_ram,
        "kv_ssd_bytes": config.kv_ssd,
    }


def _engine(slot: Slot, parts: Parts) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "model": slot.choice.model.id,
        "backend": slot.choice.backend,
        "mode": slot.choice.mode,
        "state": "loaded" if slot.handle else "loading",
        "stage": slot.stage.stage,
        "fraction": slot.stage.fraction,
        "users": slot.users,
        "keep_alive_s": slot.keep_alive,
        "kept": slot.kept,
        "unloads_in_s": _left(slot),
        "idle_s": round(time.monotonic() - slot.last_used, 1) if slot.idle else 0.0,
        "charged_bytes": slot.charged if slot.plan else None,
        "remote_bytes": slot.plan.remote if slot.plan else None,
        "adapter_bytes": slot.adapters.total,
        "load_s": round(slot.load_s, 3),
    }
    if slot.handle is not None:
        info, step = slot.handle.info, slot.handle.last_step
        guessed = verdict(parts.config, slot.choice.backend, slot.choice.mode, _guesses(slot))
        shown |= {
            "pid": slot.handle.pid,
            "n_ctx": info.n_ctx,
            "kv_type": info.settings.get("kv_type"),
            "weight_bytes": info.weight_bytes,
            "kv_bytes": info.kv_bytes,
            "compute_bytes": info.compute_bytes,
            "resident_bytes": slot.handle.rss,
            "settings": info.settings,
            "notes": list(slot.notes),
            "threads": step.threads if step else info.settings.get("threads"),
            "steps": slot.handle.steps,
            "speculation": {
                "setting": slot.handle.order.speculation,
                "draft": "draft" in info.capabilities,
                "last": slot.handle.guesses.said,
                "gain": round(slot.handle.guesses.gain, 2) if slot.handle.guesses.gain else None,
                "reason": guessed.reason,
                "state": guessed.state,
                "guessed": slot.handle.guesses.drafted,
                "right": slot.handle.guesses.accepted,
            },
            "paging": paging_json(slot.handle.paged) if slot.handle.paged else None,
            "load_stages": slot.handle.stages | {"in the engine": info.load_stages},
            "weights": _weights(slot.handle.weights),
            "sequences": msgspec.to_builtins(slot.handle.sequences) if slot.handle.sequences else None,
            "residency": _residency(info.settings, slot.handle.weights),
            "kv_cache": msgspec.to_builtins(slot.handle.kv) if slot.handle.kv else None,
        }
    return shown


def _guesses(slot: Slot) -> list[GuessRecord]:
    """What this engine's guesses brought so far; nothing before its first answer."""
    found = slot.handle.guesses if slot.handle else Guesses()
    record = GuessRecord(
        device="",
        model="",
        backend=slot.choice.backend,
        mode=slot.choice.mode,
        drafted=found.drafted,
        accepted=found.accepted,
        made=found.made,
        price=found.price,
        unguessed=found.unguessed,
    )
    return [record] if found.said else []


def _left(slot: Slot) -> float | None:
    """Seconds until an idle engine is unloaded; None while it is in use, and where it stays for good."""
    left = slot.expires - time.monotonic()
    return round(max(0.0, left), 1) if slot.idle and left != FOREVER else None


def _ahead(choice: Choice, ahead: Ahead) -> dict[str, Any]:
    return {
        "model": choice.model.id,
        "backend": choice.backend,
        "loads_in_s": round(ahead.begin - time.time(), 1),
        "until": round(ahead.end),
        "why": ahead.why,
    }


def _residency(settings: Mapping[str, Any], report: WeightsReport | None) -> dict[str, Any] | None:
    """Where each layer is: the shares in memory, the first layer first, and how many of the last are on a GPU.

    None where the engine does not tell how many layers there are.
    """
    layers = list(report.layers) if report is not None and report.layers else [1.0] * int(settings.get("layers") or 0)
    if not layers:
        return None
    return {"layers": [round(share, 3) for share in layers], "vram_layers": int(settings.get("vram_layers") or 0)}


def _weights(report: WeightsReport | None) -> dict[str, Any] | None:
    """Of a model that does not fit; None where all of it was given room."""
    if report is None:
        return None
    low, high = report.predicted_range
    told = {"predicted_tps": round(report.predicted_tps, 2), "predicted_low": round(low, 2)}
    return {**msgspec.to_builtins(report), **told, "predicted_high": round(high, 2)}
