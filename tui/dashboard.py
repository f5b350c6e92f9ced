"""What the daemon is doing, live: engines, queue, cache tiers, residency of weights, and power over time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from localai.client import Client
from localai.errors import LocalaiError
from localai.sanitize import clean, one_line
from tui.fetching import FetchingScreen

EVERY_S = 2.0
KEPT = 240
"""Readings of power that are kept."""
_MIB = 2**20
_BARS = " ▁▂▃▄▅▆▇█"
_ROWS = 4
_CELLS = 48
_SHADES = "·░▒▓█"
_WHOLE, _NONE = 0.99, 0.01
"""Shares of a layer from which it counts as in memory, and below which it does not."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One loaded engine. `weights` is the share of its weights that is in memory, None where all of them are.

    `layers` are these shares layer by layer, () where the engine does not tell; the last `vram` of them are on a GPU.
    """

    model: str
    backend: str
    state: str
    users: int
    threads: int | None
    charged: int
    weights: float | None
    hits: tuple[tuple[str, int], ...]
    kv_ram: int
    layers: tuple[float, ...] = ()
    vram: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the daemon. `joules` are of all answers since its start, None where nothing can be known."""

    at: float
    uptime: float
    engines: tuple[Engine, ...]
    pressure: tuple[tuple[str, float], ...]
    queries: int
    joules: float | None
    quality: str
    measuring: str


class Dashboard(FetchingScreen[None]):
    CSS = """
    Dashboard VerticalScroll { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f5", "dismiss(None)", "Back")]

    def __init__(self, client: Client, readings: deque[Reading], *, live: bool = True) -> None:
        """`readings` are those of before, and get the new ones. Not `live`, it shows only those that it is given."""
        super().__init__()
        self._live = live
        self._client = client
        self._board = Static(markup=False)
        self._readings = readings

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield self._board
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.on_resize()
        if self._live:
            self._look()
            self.set_interval(EVERY_S, self._look)

    def show(self, *readings: Reading) -> None:
        """Add readings, the newest last."""
        self._readings.extend(readings)
        self._board.update(board_text(tuple(self._readings), max(40, self.size.width - 3)))

    def on_resize(self) -> None:
        if self._readings:
            self.show()

    async def fetch_failed(self, error: LocalaiError, again: Callable[[], object]) -> None:
        self._board.update(f"{clean(error.message)}. {clean(error.hint)}")

    def _look(self) -> None:
        def ask() -> Reading:
            status = self._client.get("/localai/status")
            return reading_of(status, self._client.get("/localai/energy?days=1"), time.time())

        self.fetch(ask, self.show)


def reading_of(status: dict[str, Any], energy: dict[str, Any], at: float) -> Reading:
    total, quality = energy["since_start"], str(energy["quality"])
    return Reading(
        at=at,
        uptime=float(status["uptime_s"]),
        engines=tuple(_engine_of(engine) for engine in status["engines"]),
        pressure=tuple((name, float(p["some"])) for name, p in status["pressure"].items()),
        queries=int((status["last_day"] or {}).get("queries") or 0),
        joules=float(total["attributed"]) if total["readings"] else None,
        quality=one_line(quality),
        measuring=one_line(str(status.get("measuring") or "")),
    )


def _engine_of(row: dict[str, Any]) -> Engine:
    weights, kv, places = row.get("weights"), row.get("kv_cache") or {}, row.get("residency") or {}
    share = None
    if weights:
        share = weights["resident"] / max(1, weights["pinned"] + weights["paged"])
    return Engine(
        model=one_line(row["model"]),
        backend=one_line(f"{row['backend']}:{row['mode']}" if row["mode"] else row["backend"]),
        state=one_line(row["state"] if row["state"] == "loaded" else f"{row['state']} {row['stage']}"),
        users=int(row["users"]),
        threads=row.get("threads"),
        charged=int(row.get("charged_bytes") or 0),
        weights=share,
        hits=tuple((one_line(tier), int(tokens)) for tier, tokens in (kv.get("hit_tokens") or {}).items()),
        kv_ram=int(kv.get("ram_bytes") or 0),
        layers=tuple(float(share) for share in places.get("layers") or ()),
        vram=int(places.get("vram_layers") or 0),
    )


def board_text(readings: tuple[Reading, ...], width: int) -> str:
    """The whole board, in lines of at most `width` characters."""
    last = readings[-1]
    lines = [f"Daemon up {last.uptime / 3600:.1f} h, {last.queries} queries in the last day", "", "Engines"]
    lines += [line for engine in last.engines for line in _engine_lines(engine)] or ["  none is loaded"]
    lines += [f"  measuring {last.measuring}"] * bool(last.measuring)
    lines += ["", "Queue", f"  {sum(engine.users for engine in last.engines)} requests run or wait"]
    if last.pressure:
        lines += ["", "Pressure", "  " + "  ".join(f"{name} {some:.0f} %" for name, some in last.pressure)]
    lines += ["", *_power_lines(readings, width)]
    return "\n".join(line[:width] for line in lines)


def _engine_lines(engine: Engine) -> list[str]:
    threads = f"  {engine.threads} thread{'s' * (engine.threads != 1)}" if engine.threads else ""
    head = f"  {engine.model}  {engine.backend}  {engine.state}{threads}  {engine.charged // _MIB} MiB"
    if engine.state != "loaded":
        return [head]
    share = 1.0 if engine.weights is None else engine.weights
    lines = [head, f"    weights ▕{residency_map(engine, share)}▏ {share:.0%} in memory"]
    lines += [f"    {residency_text(engine.layers, engine.vram)}"] if engine.layers else []
    hits = "  ".join(f"{tier} {tokens}" for tier, tokens in engine.hits if tokens) or "none yet"
    return [*lines, f"    tokens from the cache: {hits}; blocks in RAM {engine.kv_ram // _MIB} MiB"]


def residency_map(engine: Engine, share: float) -> str:
    """A cell for each layer, or for each few of them: how much of it is in memory, or that it is on a GPU."""
    if not engine.layers:
        full = round(share * _CELLS)
        return "█" * full + "·" * (_CELLS - full)
    count = len(engine.layers)
    cells = min(count, _CELLS)
    groups = [range(cell * count // cells, (cell + 1) * count // cells) for cell in range(cells)]
    return "".join(_cell([engine.layers[n] for n in group], group[-1] >= count - engine.vram) for group in groups)


def _cell(shares: list[float], on_gpu: bool) -> str:
    mean = sum(shares) / len(shares)
    return "G" if on_gpu else _SHADES[min(len(_SHADES) - 1, math.ceil(mean * (len(_SHADES) - 1) - 0.01))]


def residency_text(layers: tuple[float, ...], vram: int) -> str:
    """`30 layers: 20 in RAM, 4 in part, 2 on disk, 4 on the GPU`."""
    near = layers[: len(layers) - vram]
    counts = {
        "in RAM █": sum(share > _WHOLE for share in near),
        "in part ░▒▓": sum(_NONE <= share <= _WHOLE for share in near),
        "on disk ·": sum(share < _NONE for share in near),
        "on the GPU G": vram,
    }
    return f"{len(layers)} layers: {', '.join(f'{count} {where}' for where, count in counts.items() if count)}"


def watts(readings: tuple[Reading, ...]) -> list[float]:
    """Watts of answers, beyond idle, between each two readings that know."""
    pairs = pairwise(readings)
    known = [(a, b) for a, b in pairs if a.joules is not None and b.joules is not None and b.at > a.at]
    found = []
    for a, b in known:
        # While nobody looked, the mean of that time stands for each moment of it. A new daemon counts from 0.
        times = min(KEPT, max(1, round((b.at - a.at) / EVERY_S)))
        found += [max(0.0, (b.joules or 0.0) - (a.joules or 0.0)) / (b.at - a.at)] * times
    return found


def _power_lines(readings: tuple[Reading, ...], width: int) -> list[str]:
    found = watts(readings)[-(width - 12) :]
    title = f"Power of answers beyond idle, watts ({readings[-1].quality})"
    if not found:
        return [title, "  not known yet"]
    top = max(*found, 0.1) if len(found) > 1 else max(found[0], 0.1)
    rows = []
    for row in range(_ROWS, 0, -1):
        cells = [round(value / top * _ROWS * 8) - (row - 1) * 8 for value in found]
        label = f"{top:6.1f} ▏" if row == _ROWS else f"{0.0:6.1f} ▏" if row == 1 else "       ▏"
        rows.append(label + "".join(_BARS[max(0, min(8, cell))] for cell in cells))
    return [title, *rows]
