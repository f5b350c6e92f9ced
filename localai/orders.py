"""What a child is told to load: memory planned from the model's sizes, the order, and what its self-test holds for.

A Choice and free bytes enter, a Plan and a Load leave; starts nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from backends.contract import Load
from backends.errors import BackendError
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from backends.guesses import Speculation
from backends.kv_frames import KvGrant
from backends.kv_paging import Paging
from localai import budget
from localai.choice import Choice
from localai.config import Config
from localai.device import Device
from localai.errors import OutOfResources, from_backend
from localai.kv_accuracy import Key as KvKey
from localai.kv_accuracy import KvCost
from localai.kv_cache import KvCache
from localai.kv_choice import AUTO, KV_TYPES, KvChoice, KvTypes, choose_kv, kv_types
from localai.local_model import LocalModel
from localai.model_folders import folder_shape, folder_sizes
from localai.offers import build_label
from localai.paged_plan import can_page, paged_plan_with
from localai.readings import Shape
from localai.shapes import shape_of
from localai.spread_plan import local_charge, usual_context
from localai.tested import Key

N_SEQ = 32
_FREE_SSD = 0.5
"""Share of the free disk that one engine's pages may take, whatever the setting says."""
_SHELF = 16
_NEAR = 0.9
"""Share of the best budget for weights below which idle engines are unloaded for more."""

DraftFor = Callable[[LocalModel, str], LocalModel | None]
"""The draft model of a model on a backend; raises LocalaiError where it cannot be had."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load will take: `n_ctx` tokens served, `total` bytes charged before anything is allocated.

    `shelf` of them are for KV blocks in RAM. `weights` bytes of the model may be in memory at a time, 0: all of them.
    `kv_type` is what llama.cpp stores keys and values in, and `reason` why that is not the most faithful type.
    Layers run on `workers`, where there are any, and take `remote` bytes there, which are no part of `total`.
    """

    n_ctx: int
    total: int
    shelf: int = 0
    weights: int = 0
    kv_type: str = KV_TYPES[0]
    reason: str = ""
    workers: tuple[str, ...] = ()
    remote: int = 0

    def as_good_as(self, best: Plan) -> bool:
        """Whether unloading others for `best` would gain nothing worth it."""
        if KV_TYPES.index(self.kv_type) > KV_TYPES.index(best.kv_type):
            return False
        if not self.weights:
            return self.n_ctx >= best.n_ctx
        return bool(best.weights) and self.n_ctx >= best.n_ctx and self.weights >= _NEAR * best.weights


class Orders:
    """Plans and orders for one configuration on one device."""

    def __init__(
        self,
        config: Config,
        device: Device,
        kv_cache: KvCache | None = None,
        kv_costs: Callable[[LocalModel], Mapping[KvKey, KvCost]] = lambda _: {},
        draft_for: DraftFor = lambda _model, _backend: None,
    ) -> None:
        """`kv_costs` gives what is known of KV types with a model on this device."""
        self._draft_for = draft_for
        self._config = config
        self._kv = kv_cache
        self._kv_costs = kv_costs
        self.device = device

    @property
    def threads(self) -> int:
        """Most threads of an engine."""
        return self._config.threads or self.device.cpu.threads

    @property
    def kv_type(self) -> str:
        """What is set, or else the type that is taken wherever it fits."""
        return KV_TYPES[0] if self._config.kv_type == AUTO else self._config.kv_type

    def plan(self, choice: Choice, free: int, kv_type: str = "") -> Plan:
        """See `pool.PlanFor`; `kv_type` stands for what is set, where given."""
        if choice.backend == "echo":
            return Plan(choice.n_ctx or 4096, 0, self._shelf(2**30))
        draft = None if paged(choice) else self._draft_for(choice.model, choice.backend)
        extra = 0
        headers: Sequence[GgufHeader] = ()
        try:
            if choice.model.format == "gguf":
                # What counts is the sum of all shards; the first one's metadata speaks for the rest.
                headers = read_shards(choice.model.path)
                extra = sum(h.weight_bytes for h in headers[1:])
                sizes: GgufHeader | budget.Sizes = headers[0]
                extra += (
                    _draft_bytes(draft, headers[0], choice, kv_type if kv_type in KV_TYPES else self.kv_type)
                    if draft
                    else 0
                )
            else:
                sizes = folder_sizes(choice.model.path, choice.model.size_bytes)
        except BackendError as error:
            raise from_backend(error) from error
        types = self._kv_types(choice, sizes, kv_type)
        pages = paged(choice)
        kv = self._config.page_ram if pages else None
        try:
            taken = choose_kv(types, sizes, choice.n_ctx, free - extra, choice.backend, choice.mode, kv)
        except OutOfResources:
            if not headers or headers[0].is_embedding or not can_page(choice.backend, self._config.paging):
                raise
            return self._paged(types, headers, choice.n_ctx, free)
        need = budget.charge(sizes, taken.n_ctx, taken.kv_type, choice.backend, choice.mode, kv).total + extra
        # Pages live as long as their engine: there is nothing to put on a shelf.
        shelf = 0 if pages else self._shelf(free - need)
        return Plan(taken.n_ctx, need + shelf, shelf, kv_type=taken.kv_type, reason=taken.reason)

    def spread(self, choice: Choice, free: int, workers: tuple[str, ...]) -> Plan:
        """The same with layers on `workers` of llama.cpp, on other machines: `free` is for what stays on this one.

        Context and KV type are what they would be here alone, where that would do. Raises as `plan`.
        """
        try:
            headers = read_shards(choice.model.path)
        except BackendError as error:
            raise from_backend(error) from error
        draft = self._draft_for(choice.model, choice.backend)
        extra = _draft_bytes(draft, headers[0], choice, self.kv_type) if draft else 0
        types = self._kv_types(choice, headers[0], "")
        others = sum(header.weight_bytes for header in headers[1:])
        try:
            taken = choose_kv(types, headers[0], choice.n_ctx, free - others - extra)
        except OutOfResources:
            taken = KvChoice(types.allowed[0], usual_context(headers[0], choice.n_ctx))
        need = budget.charge(headers[0], taken.n_ctx, taken.kv_type)
        whole = replace(need, weights=need.weights + others)
        layers = self._gpu_layers(choice, Plan(taken.n_ctx, 0, kv_type=taken.kv_type), draft)
        here = local_charge(headers, whole, layers).total + extra
        if here > free:
            raise OutOfResources(
                f"{choice.id} needs {budget.gigabytes(here)} on this machine beside its RPC workers, "
                f"{budget.gigabytes(max(free, 0))} are free",
                "unload other models, take a shorter context (--ctx), or raise the budget (ram)",
            )
        remote = whole.total + extra - here
        return Plan(taken.n_ctx, here, kv_type=taken.kv_type, reason=taken.reason, workers=workers, remote=remote)

    def _kv_types(self, choice: Choice, sizes: GgufHeader | budget.Sizes, kv_type: str) -> KvTypes:
        if choice.backend != "llama.cpp":
            return KvTypes((self.kv_type,))
        asked = kv_type or self._config.kv_type
        return kv_types(asked, sizes, self._kv_costs(choice.model) if asked == AUTO else {}, self._config.kv_loss)

    def _paged(self, types: KvTypes, headers: Sequence[GgufHeader], n_ctx: int, free: int) -> Plan:
        tight, kv_type = paged_plan_with(types.allowed, headers, n_ctx, free)
        # A sixteenth of the weights' room is less use to them than the beginning of a known conversation.
        shelf = min(self._shelf(free), (tight.weights - tight.least) // _SHELF)
        return Plan(tight.n_ctx, tight.total, shelf, tight.weights - shelf, kv_type)

    def _shelf(self, free: int) -> int:
        """Bytes of RAM for KV blocks, of what a model leaves free."""
        return max(0, min(self._kv.share(), free)) if self._kv else 0

    def order(self, choice: Choice, plan: Plan) -> Load:
        """What the child is told."""
        # A paged model has no room for a second one.
        draft = None if plan.weights or paged(choice) else self._draft_for(choice.model, choice.backend)
        return Load(
            backend=choice.backend,
            path=str(choice.model.path),
            mode=choice.mode,
            cache=str(self._config.home / "cache" / "graphs"),
            n_ctx=plan.n_ctx,
            n_seq=N_SEQ,
            threads=self.threads,
            kv_type=plan.kv_type,
            gpu_layers=0 if plan.weights else self._gpu_layers(choice, plan, draft),
            kv=self._kv.grant(plan.shelf) if self._kv else KvGrant(),
            paging=paging(self._config) if paged(choice) else Paging(),
            digest=choice.model.digest or "",
            draft=str(draft.path) if draft else "",
            speculation=cast(Speculation, self._config.speculation),
            weights=plan.weights,
        )

    def _gpu_layers(self, choice: Choice, plan: Plan, draft: LocalModel | None) -> int:
        """As configured, else as many as fit into the configured GPU memory, beside its compute buffers; -1 is all.

        A draft model puts as many of its own layers there, and is counted as if they were all.
        """
        asked, vram = self._config.gpu_layers, self._config.vram
        if asked >= 0 or not vram or choice.backend != "llama.cpp" or choice.model.format != "gguf":
            return asked
        headers = read_shards(choice.model.path)
        layers = headers[0].number("block_count") or 1
        need = budget.charge(headers[0], plan.n_ctx, plan.kv_type)
        room = vram - need.compute - (_draft_bytes(draft, headers[0], choice, plan.kv_type, plan.n_ctx) if draft else 0)
        whole = need.kv + sum(header.weight_bytes for header in headers)
        return asked if room >= whole else max(0, room * layers // max(1, whole))

    def key(self, choice: Choice) -> Key:
        """What verdicts on this choice's settings hold for."""
        header = choice.model.header
        model = f"{header.architecture} {header.quant}" if header else choice.model.id
        mode = f" {choice.mode}" if choice.mode else ""
        return Key(self.device.fingerprint, choice.backend, build_label(choice.backend), model + mode)

    def log_file(self, model: LocalModel) -> Path:
        name = "".join(c if c.isalnum() or c in "-._" else "-" for c in model.id)
        return self._config.logs / f"engine-{name}.log"


def _draft_bytes(draft: LocalModel, model: GgufHeader, choice: Choice, kv_type: str, n_ctx: int = 0) -> int:
    """What `draft` takes at most beside the model that it guesses for, with as many cells. Raises BackendError."""
    first, *others = read_shards(draft.path)
    n_ctx = n_ctx or choice.n_ctx or min(model.n_ctx_train or budget.MOST_CTX, budget.MOST_CTX)
    charged = budget.charge(first, n_ctx, kv_type, choice.backend, choice.mode)
    return charged.total + sum(h.weight_bytes for h in others)


def paged(choice: Choice) -> bool:
    """Whether the engine pages keys and values of a long context to the disk."""
    return (choice.backend, choice.mode) == ("onnx", "paged")


def paging(config: Config) -> Paging:
    """What such an engine may take."""
    folder = config.home / "cache" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    room = int(_FREE_SSD * shutil.disk_usage(folder).free)
    return Paging(ram=config.page_ram, ssd=min(config.page_ssd, room), folder=str(folder), tokens=config.page_tokens)


def shape(model: LocalModel) -> Shape:
    """The sizes that the model's speed depends on. Raises LocalaiError where they cannot be read."""
    if model.format == "echo":
        return Shape("echo", "", 1, 1, 1, 1, 1, 1, 1, 1)
    try:
        if model.format == "gguf":
            return shape_of(read_shards(model.path))
        return folder_shape(model.path, model.size_bytes, model.header.quant if model.header else "")
    except BackendError as error:
        raise from_backend(error) from error
