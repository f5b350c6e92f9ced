"""The models here and what each would cost on this machine: speed, joules and memory; leaves with the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

from localai.client import Client
from localai.errors import LocalaiError, NotFound
from localai.sanitize import one_line
from tui.listing import ListScreen

_PLAN_TIMEOUT_S = 60.0
_PLANNING = "planning…"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, the backend that is to run it ("" leaves it to the router), and whether it must be pulled first."""

    model: str
    backend: str = ""
    pull: bool = False


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of this machine; of the catalogue where it is not `here`, then of about `size` bytes to pull."""

    id: str
    quant: str
    context: int | None
    loaded: bool
    here: bool = True
    size: int = 0
    guess: Cost | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """One way of running a model: rate in tokens/s, J per token, bytes; `measured` rather than predicted.

    `rough` is scaled by size from another model.
    """

    backend: str
    fits: bool
    measured: bool
    decode_tps: float
    joules: float | None
    ram: int
    rough: bool = False


class Models(ListScreen[Choice]):
    HEADING = "Models: Enter takes one, or a way of running it, and pulls what is not here; what each would cost here"

    DEFAULT_CSS = "Models OptionList { text-wrap: nowrap; text-overflow: ellipsis; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("p", "plan", "Plan by its header on the hub")]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._models: tuple[ModelLine, ...] = ()
        self._costs: dict[str, tuple[Cost, ...] | str] = {}
        self._doomed: str | None = None

    def on_mount(self) -> None:
        self.fetch(lambda: known_models(self._client), self._listed)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        model, _, backend = (event.option_id or "").partition("\t")
        away = next((line for line in self._models if line.id == model and not line.here), None)
        if away is not None and self._doomed != model:
            # Gigabytes are not brought by one slip of a finger.
            self._doomed = model
            self.heading.update(f"Enter again pulls {one_line(model)}, {size_text(away.size)}, and takes it")
        elif away is not None:
            self.dismiss(Choice(model, "", pull=True))
        else:
            self.dismiss(Choice(model, backend))

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        model = (event.option_id or "").partition("\t")[0]
        if self._doomed not in (None, model):
            self._doomed = None
            self.heading.update(self.HEADING)
        if any(line.id == model and line.here for line in self._models):
            self._plan(model)

    def action_plan(self) -> None:
        """Of a model that is not here, its header is read on the hub: by a key, because that leaves this machine."""
        self._plan((self.chosen or "").partition("\t")[0])

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
            rows.append((model.id, model_text(model)))
            costs = self._costs.get(model.id, ())
            if isinstance(costs, str):
                rows[-1] = (model.id, f"{model_text(model)}  {costs}")
                costs = ()
            shown = costs or ((model.guess,) if model.guess else ())
            rows += [(f"{model.id}\t{cost.backend}", f"  {cost_text(cost)}") for cost in shown]
        self.fill(rows, empty="No models here; /pull MODEL gets one")


def known_models(client: Client) -> tuple[ModelLine, ...]:
    """Those here and those of the catalogue, as far as the daemon tells of it. Blocks; raises LocalaiError."""
    here = client.get("/v1/models")
    try:
        catalog = client.get("/localai/catalog")
    except NotFound:
        # It is of an earlier version.
        catalog = {"models": []}
    return models_of(here, catalog)


_UNLISTED = ("/", "~", ".", "echo:", "file:", "hf:")
_ROUTED = ("auto", "default")


def listed(name: str) -> bool:
    """Whether the daemon's list tells of a model of this name; of files, adapters and aliases it does not."""
    return not (name.startswith(_UNLISTED) or name in _ROUTED or "+" in name)


def check_model(client: Client, name: str) -> None:
    """Raises UnknownModel, which names the nearest, or NotFound for one to be pulled first. Blocks."""
    if listed(name):
        client.get(f"/v1/models/{quote(name, safe='')}")


def models_of(body: dict[str, Any], catalog: dict[str, Any]) -> tuple[ModelLine, ...]:
    """The models here, then those of the catalogue that could be pulled for a chat, the smallest first."""
    here = tuple(
        ModelLine(row["id"], one_line(row.get("quantization") or ""), row.get("context_length"), bool(row["loaded"]))
        for row in body["data"]
    )
    return (*here, *(_offered(row) for row in catalog["models"] if "chat" in row["capabilities"]))


def _offered(row: dict[str, Any]) -> ModelLine:
    found = row["estimate"]
    guess = None
    if found is not None:
        speed, fits = float(found["decode_tps"]), bool(found["fits"])
        guess = Cost("about", fits, False, speed, found["joules_per_token"], int(found["ram_bytes"]), rough=True)
    quant = one_line(row.get("quantization") or "")
    return ModelLine(row["id"], quant, row.get("context_length"), False, False, int(row["bytes"]), guess)


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
    """One line; in 60 columns only its last word, how it is known, is cut."""
    joules = "J unknown" if cost.joules is None else f"{cost.joules:.3g} J/token"
    source = "measured" if cost.measured else "by size" if cost.rough else "predicted"
    state = "" if cost.fits else "  does not fit"
    return f"{cost.backend:10}{cost.decode_tps:6.1f} tok/s  {joules:>13} {cost.ram // _MIB:6} MiB  {source}{state}"


def model_text(model: ModelLine) -> str:
    context = f"  {model.context} tokens" if model.context else ""
    state = "  loaded" if model.loaded else "" if model.here else f"  to pull, {size_text(model.size)}"
    return f"{one_line(model.id)}  {model.quant}{context}{state}"


def size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
