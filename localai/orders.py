"""What a child is told to load: memory planned from the model's sizes, the order, and what its self-test holds for.

A Choice and free bytes enter, a Plan and a Load leave; starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from backends.contract import KvGrant, Load, Speculation
from backends.errors import BackendError
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from localai import budget
from localai.choice import Choice
from localai.config import Config
from localai.device import Device
from localai.errors import from_backend
from localai.kv_cache import KvCache
from localai.local_model import LocalModel
from localai.model_folders import folder_shape, folder_sizes
from localai.offers import build_label
from localai.readings import Shape
from localai.shapes import shape_of
from localai.tested import Key

N_SEQ = 32

DraftFor = Callable[[LocalModel, str], LocalModel | None]
"""The draft model of a model on a backend; raises LocalaiError where it cannot be had."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load will take: `n_ctx` tokens served, `total` bytes charged before anything is allocated.

    `shelf` of them are for KV blocks in RAM.
    """

    n_ctx: int
    total: int
    shelf: int = 0


class Orders:
    """Plans and orders for one configuration on one device."""

    def __init__(
        self,
        config: Config,
        device: Device,
        kv_cache: KvCache | None = None,
        draft_for: DraftFor = lambda _model, _backend: None,
    ) -> None:
        self._draft_for = draft_for
        self._config = config
        self._kv = kv_cache
        self.device = device

    @property
    def threads(self) -> int:
        """Most threads of an engine."""
        return self._config.threads or self.device.cpu.threads

    @property
    def kv_type(self) -> str:
        return self._config.kv_type

    def plan(self, choice: Choice, free: int) -> Plan:
        """See `pool.PlanFor`."""
        if choice.backend == "echo":
            return Plan(choice.n_ctx or 4096, 0, self._shelf(2**30))
        draft = self._draft_for(choice.model, choice.backend)
        extra = 0
        try:
            if choice.model.format == "gguf":
                # What counts is the sum of all shards; the first one's metadata speaks for the rest.
                headers = read_shards(choice.model.path)
                extra = sum(h.weight_bytes for h in headers[1:])
                sizes: GgufHeader | budget.Sizes = headers[0]
                extra += _draft_bytes(draft, headers[0], choice, self._config.kv_type) if draft else 0
            else:
                sizes = folder_sizes(choice.model.path, choice.model.size_bytes)
        except BackendError as error:
            raise from_backend(error) from error
        way = (self._config.kv_type, choice.backend, choice.mode)
        n_ctx = budget.served_context(sizes, choice.n_ctx, free - extra, *way)
        need = budget.charge(sizes, n_ctx, *way).total + extra
        shelf = self._shelf(free - need)
        return Plan(n_ctx, need + shelf, shelf)

    def _shelf(self, free: int) -> int:
        """Bytes of RAM for KV blocks, of what a model leaves free."""
        return max(0, min(self._kv.share(), free)) if self._kv else 0

    def order(self, choice: Choice, plan: Plan) -> Load:
        """What the child is told."""
        draft = self._draft_for(choice.model, choice.backend)
        return Load(
            backend=choice.backend,
            path=str(choice.model.path),
            mode=choice.mode,
            cache=str(self._config.home / "cache" / "graphs"),
            n_ctx=plan.n_ctx,
            n_seq=N_SEQ,
            threads=self.threads,
            kv_type=self._config.kv_type,
            gpu_layers=self._config.gpu_layers,
            kv=self._kv.grant(plan.shelf) if self._kv else KvGrant(),
            digest=choice.model.digest or "",
            draft=str(draft.path) if draft else "",
            speculation=cast(Speculation, self._config.speculation),
        )

    def key(self, choice: Choice) -> Key:
        """What verdicts on this choice's settings hold for."""
        header = choice.model.header
        model = f"{header.architecture} {header.quant}" if header else choice.model.id
        mode = f" {choice.mode}" if choice.mode else ""
        return Key(self.device.fingerprint, choice.backend, build_label(choice.backend), model + mode)

    def log_file(self, model: LocalModel) -> Path:
        name = "".join(c if c.isalnum() or c in "-._" else "-" for c in model.id)
        return self._config.logs / f"engine-{name}.log"


def _draft_bytes(draft: LocalModel, model: GgufHeader, choice: Choice, kv_type: str) -> int:
    """What `draft` takes at most beside the model that it guesses for, with as many cells. Raises BackendError."""
    first, *others = read_shards(draft.path)
    n_ctx = choice.n_ctx or min(model.n_ctx_train or budget.MOST_CTX, budget.MOST_CTX)
    charged = budget.charge(first, n_ctx, kv_type, choice.backend, choice.mode)
    return charged.total + sum(h.weight_bytes for h in others)


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
