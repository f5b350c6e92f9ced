"""Plans a model on this machine: its variants, the engines here, the room they have, and what was measured of them.

A name and limits enter, one JSON-able object leaves, the same for the command line and the daemon. Blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from backends import registry
from localai.budget import margin, stored_type
from localai.calibration_store import PagedReading, identity
from localai.config import Config
from localai.device import Device, inspect
from localai.disk_rate import disk_rate
from localai.energy.draw import Draw, Draws, typical
from localai.energy.prediction import Range, row_joules
from localai.engine_build import EngineBuild, engine_build
from localai.errors import BadRequest, ModelBroken
from localai.guess_records import GuessRecords, verdict
from localai.kv_accuracy import Key, KvCost
from localai.kv_plan import kv_rows, kv_taken
from localai.local_model import LocalModel
from localai.paged_plan import can_page
from localai.paged_rows import PagedRows
from localai.planner import Asked, Room, Row, Variant, Way, plan
from localai.readings import Reading
from localai.roofline import Prediction
from localai.step_costs import family
from localai.variants import Finder, Variants

ReadingsSource = Callable[[str], Sequence[Reading]]
"""Gives all readings of the device with this fingerprint, of any backend."""

KvSource = Callable[[str, LocalModel], Mapping[Key, KvCost]]
"""Gives what KV types cost with a model on the device with this fingerprint."""

PagedSource = Callable[[str], Sequence[PagedReading]]
"""Gives what paging did on the device with this fingerprint."""

CALIBRATE = "localai doctor --calibrate"

_KV_TYPES: dict[str, tuple[str, ...]] = {"llama.cpp": ("f16", "q8_0", "q4_0")}
_FAMILIES = frozenset({"llama", "qwen2", "qwen3"})
_EXACT = frozenset({"Q4_0", "Q4_1", "Q8_0", "F16", "F32"})
_RUNS: dict[str, tuple[frozenset[str], frozenset[str]]] = {"mlx": (_FAMILIES, _EXACT), "onnx": (_FAMILIES, _EXACT)}
"""Architectures and tensor types of a GGUF that a backend takes, where that is not everything."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the person asked for; 0 (None for `vram`) leaves it to the machine. Bytes and tokens."""

    ctx: int = 0
    tokens: int = 512
    ram: int = 0
    vram: int | None = None

    def checked(self) -> Limits:
        """Itself. Raises BadRequest for numbers that mean nothing."""
        least = {"ctx": 0, "tokens": 1, "ram": 0, "vram": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < 2**62:
                raise BadRequest(f"{name} is {value}", f"give a number from {bound} on", param=name)
        return self


def plan_model(
    name: str,
    limits: Limits,
    config: Config,
    finder: Finder,
    source: ReadingsSource,
    draws: Draws | None = None,
    kv_source: KvSource = lambda _, __: {},
    paged_source: PagedSource = lambda _: (),
) -> dict[str, Any]:
    """All candidates for `name` as `models plan --json` prints them.

    Raises the errors of `Finder.find` and `planner.plan`, ModelBroken where no backend here runs the model.
    """
    away = finder.catalog.upstream_of(name)
    if away is not None:
        planned = f"plan its fallback: `localai models plan {away.fallback}`"
        instead = planned if away.fallback else "name a model of this machine"
        raise BadRequest(f"{name} runs on another machine ({away.host}) and takes no memory here", instead)
    variants = finder.find(name)
    device = inspect(config.home)
    build = engine_build() if device.gpus else None
    room = room_on(device, build, config, limits)
    readings = source(device.fingerprint)
    candidates = [
        (variant, way)
        for way in ways(device, readings, config, offloads=room.vram > 0)
        for variant in variants.found
        if runs(way.backend, variant)
    ]
    if not candidates:
        raise ModelBroken(
            f"no backend here runs {variants.found[0].shape.architecture}", "choose another model", param="model"
        )
    asked = Asked(limits.ctx, limits.tokens)
    known = identity(variants.model.base or variants.model) if variants.model else ""
    disk = partial(disk_rate, (variants.model.base or variants.model).files if variants.model else ())
    pages = PagedRows(room, asked, paged_source(device.fingerprint), known, disk if known else lambda _: None)
    pageable = can_page("llama.cpp", config.paging)
    rows = plan(candidates, room, asked, readings, pages.row if pageable else lambda _: None)
    report = _report(variants, device, room, limits, rows)
    costs = kv_source(device.fingerprint, variants.model) if variants.model else {}
    first = variants.found[0]
    backends = [name for name in registry.NAMES if runs(name, first)]
    report["kv_types"] = kv_rows(first, room, costs, backends, here=variants.here)
    report["kv_taken"] = kv_taken(first, room, limits.ctx, config, costs)
    guesses = GuessRecords(config.home).of(device.fingerprint, known) if known else []
    for shown, row in zip(report["rows"], rows, strict=True):
        shown["speculation"] = asdict(verdict(config, row.way.backend, row.way.mode, guesses))
        shown["energy"] = _energy(row, draws, config.cpu_watts)
    return report


def no_readings(_: str) -> Sequence[Reading]:
    """The source where nothing was measured."""
    return ()


def room_on(device: Device, build: EngineBuild | None, config: Config, limits: Limits) -> Room:
    """The budget that was asked for or set, else what is free now less a margin; VRAM only where an engine uses it."""
    memory = device.memory
    ram = limits.ram or config.ram or memory.available - margin(memory.total)
    cards = [d for d in build.devices if d.kind in ("gpu", "igpu")] if build and build.gpu_offload else []
    if not cards:
        return Room(ram)
    shared = any(card.vendor == "apple" for card in device.gpus)
    total = sum(card.memory_bytes or 0 for card in cards)
    own = ram if shared else total - margin(total) if total else 0
    return Room(ram, max(0, (config.vram or own) if limits.vram is None else limits.vram), shared)


def ways(device: Device, readings: Sequence[Reading], config: Config, *, offloads: bool) -> list[Way]:
    """Every backend in every mode and with every count of threads that was measured, else as it would be loaded."""
    usual = config.threads or device.cpu.threads
    found = []
    for backend in registry.NAMES:
        own = [r for r in readings if r.backend == backend]
        newest = max(own, key=lambda r: r.at, default=None)
        modes = {"": None} | {r.mode: None for r in own}
        counts = sorted({r.threads for r in own if r.threads <= device.cpu.logical} | (set() if own else {usual}))
        kinds = dict.fromkeys((*_KV_TYPES.get(backend, ()), *(r.kv_type for r in own))) or {"f16": None}
        found += [
            Way(backend, newest.build if newest else "", mode, threads, kv_type, offloads and backend == "llama.cpp")
            for mode in modes
            for threads in counts or [usual]
            for kv_type in kinds
        ]
    return found


def runs(backend: str, variant: Variant) -> bool:
    """Whether `backend` takes this architecture and quantisation."""
    if backend not in _RUNS:
        return True
    architectures, kinds = _RUNS[backend]
    return variant.shape.architecture in architectures and family(variant.quant) in kinds


def _report(variants: Variants, device: Device, room: Room, limits: Limits, rows: Sequence[Row]) -> dict[str, Any]:
    shape = variants.found[0].shape
    measured = all(row.decode.measured for row in rows if row.front)
    return {
        "model": variants.id,
        "here": variants.here,
        "architecture": shape.architecture,
        "context_trained": variants.found[0].header.n_ctx_train,
        "device": {
            "cpu": device.cpu.model,
            "threads": device.cpu.threads,
            "ram_bytes": room.ram,
            "vram_bytes": room.vram,
            "shared_memory": room.shared,
        },
        "tokens": limits.tokens,
        "rows": [_row(row) for row in rows],
        "notes": _notes(room, limits),
        "hint": "" if measured else f"`{CALIBRATE}` measures what is only estimated so far",
    }


def _notes(room: Room, limits: Limits) -> list[str]:
    if limits.vram and not room.vram:
        return ["the installed engine can use no GPU, so --vram changes nothing; `localai doctor` says why"]
    return []


def _row(row: Row) -> dict[str, Any]:
    return {
        "quant": row.variant.quant,
        "size_estimated": row.variant.estimated,
        "backend": row.way.backend,
        "mode": row.way.mode,
        "threads": row.way.threads,
        "gpu_layers": row.gpu_layers,
        "kv_type": stored_type(row.way.backend, row.way.mode, row.way.kv_type),
        "context": row.n_ctx,
        "fits": row.fits,
        "front": row.front,
        "paged": asdict(row.paged) if row.paged else None,
        "memory": {
            "ram_bytes": row.ram,
            "vram_bytes": row.vram,
            "weights_bytes": row.need.weights,
            "kv_bytes": row.need.kv,
            "compute_bytes": row.need.compute,
        },
        "prefill_tps": _bar(row.prefill),
        "decode_tps": _bar(row.decode),
        "ttft_ms": _bar(row.ttft, 1000.0),
        "measured": row.decode.measured,
        "basis": row.decode.basis,
    }


def _energy(row: Row, draws: Draws | None, watts: float) -> dict[str, Any]:
    """Joules per token beyond idle: the row's speed and the watts of answers here, else typical ones."""
    way = row.way
    known = draws.of(way.backend, way.mode, way.threads) if draws is not None and not row.gpu_layers else None
    if known is None and row.gpu_layers:
        return {
            **row_joules((1, 1, 1), (1, 1, 1), Draw(threads=0)),
            "quality": "none",
            "basis": "GPU watts are unknown",
        }
    return row_joules(_range(row.prefill), _range(row.decode), known or typical(way.threads, watts))


def _range(prediction: Prediction) -> Range:
    return prediction.value, prediction.low, prediction.high


def _bar(prediction: Prediction, unit: float = 1.0) -> dict[str, float]:
    numbers = {"value": prediction.value, "low": prediction.low, "high": prediction.high}
    return {name: float(f"{unit * number:.4g}") for name, number in numbers.items()}
