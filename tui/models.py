"""The models here and what each would cost on this machine: speed, joules and memory; leaves with the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from textual.widgets import OptionList

from localai.client import Client
from localai.errors import LocalaiError
from tui.listing import ListScreen
from tui.sanitize import one_line

_PLAN_TIMEOUT_S = 60.0
_PLANNING = "planning…"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, and the backend that is to run it ("" leaves it to the router)."""

    model: str
    backend: str = ""


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of this machine."""

    id: str
    quant: str
    context: int | None
    loaded: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """One way of running a model: rate in tokens/s, J per token, bytes; `measured` rather than predicted."""

    backend: str
    fits: bool
    measured: bool
    decode_tps: float
    joules: float | None
    ram: int


class Models(ListScreen[Choice]):
    HEADING = "Models: Enter takes one, or one way of running it; what each would cost here follows"

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._models: tuple[ModelLine, ...] = ()
        self._costs: dict[str, tuple[Cost, ...] | str] = {}

    def on_mount(self) -> None:
        self.fetch(lambda: models_of(self._client.get("/v1/models")), self._listed)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        model, _, backend = (event.option_id or "").partition("\t")
        self.dismiss(Choice(model, backend))

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self._plan((event.option_id or "").partition("\t")[0])

    def _listed(self, models: tuple[ModelLine, ...]) -> None:
        self.show(models, {})

    def show(self, models: tuple[ModelLine, ...], costs: Mapping[str, tuple[Cost, ...]]) -> None:
        """List these; the costs of others are asked for when they are highlighted."""
        self._models = models
        self._costs |= costs
        self._show()

    def _plan(self, model: str) -> None:
        if not model or model in self._costs:
            return
        self._costs[model] = _PLANNING

        def ask() -> tuple[Cost, ...] | str:
            try:
                return costs_of(self._client.get(f"/localai/plan?model={quote(model)}", timeout=_PLAN_TIMEOUT_S))
            except LocalaiError as error:
                return one_line(error.message)

        def planned(costs: tuple[Cost, ...] | str) -> None:
            # Told otherwise meanwhile, it stays at that.
            if self._costs.get(model) == _PLANNING:
                self._costs[model] = costs
                self._show()

        self.fetch(ask, planned)

    def _show(self) -> None:
        rows: list[tuple[str, str]] = []
        for model in self._models:
            rows.append((model.id, _model_text(model)))
            costs = self._costs.get(model.id, ())
            if isinstance(costs, str):
                rows[-1] = (model.id, f"{_model_text(model)}  {costs}")
            else:
                rows += [(f"{model.id}\t{cost.backend}", f"    {cost_text(cost)}") for cost in costs]
        self.fill(rows, empty="No models here; /pull MODEL gets one")


def models_of(body: dict[str, Any]) -> tuple[ModelLine, ...]:
    return tuple(
        ModelLine(row["id"], one_line(row.get("quantization") or ""), row.get("context_length"), bool(row["loaded"]))
        for row in body["data"]
    )


def costs_of(body: dict[str, Any]) -> tuple[Cost, ...]:
    """The best way of each backend and mode, the fastest first."""
    best: dict[str, Cost] = {}
    for row in body["rows"]:
        name = one_line(f"{row['backend']}:{row['mode']}" if row.get("mode") else row["backend"])
        per_token = (row.get("energy") or {}).get("decode_joules_per_token") or {}
        cost = Cost(
            backend=name,
            fits=bool(row["fits"]),
            measured=bool(row["measured"]),
            decode_tps=float(row["decode_tps"]["value"]),
            joules=per_token.get("value"),
            ram=int(row["memory"]["ram_bytes"]),
        )
        known = best.get(name)
        if known is None or (cost.fits, cost.decode_tps) > (known.fits, known.decode_tps):
            best[name] = cost
    return tuple(sorted(best.values(), key=lambda cost: (not cost.fits, -cost.decode_tps)))


def cost_text(cost: Cost) -> str:
    """One line that fits 60 columns."""
    joules = "J unknown" if cost.joules is None else f"{cost.joules:.3g} J/token"
    source = "measured" if cost.measured else "predicted"
    state = "" if cost.fits else "  does not fit"
    return f"{cost.backend:14} {cost.decode_tps:6.1f} tok/s  {joules:>14}  {cost.ram // _MIB:6} MiB  {source}{state}"


def _model_text(model: ModelLine) -> str:
    context = f"  {model.context} tokens" if model.context else ""
    return f"{one_line(model.id)}  {model.quant}{context}{'  loaded' if model.loaded else ''}"
