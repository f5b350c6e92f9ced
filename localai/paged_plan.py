"""How a model whose weights exceed the memory that is left is run all the same: context, and what weights may take.

A model's parts and free bytes enter, a `PagedPlan` leaves. Pure; the child that runs it pages (`backends.paging`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from backends.gguf_header import GgufHeader
from backends.paging_layout import layout
from localai.budget import LEAST_CTX, MOST_CTX, Charge, charge, gigabytes
from localai.errors import OutOfResources

_KV_SHARE = 0.25
"""Most of what is left beside the pinned weights that the KV of an unasked context may take: the rest pages less."""
_USUAL_CTX = 4096
"""Served unless asked for more: each longer context makes every token slower here."""


@dataclass(frozen=True, slots=True)
class PagedPlan:
    """`weights` bytes of the model may be in memory beside `kv` and `compute`; `least` is what it needs at least."""

    n_ctx: int
    weights: int
    kv: int
    compute: int
    least: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute


def can_page(backend: str, setting: str) -> bool:
    """Whether weights can be paged here at all, and the person has not switched it off."""
    return backend == "llama.cpp" and setting != "off" and sys.platform == "linux"


def paged_plan(headers: Sequence[GgufHeader], asked: int, free: int, kv_type: str) -> PagedPlan:
    """For the model with these parts. Raises OutOfResources with both numbers where not even one token's weights fit.

    No headroom is left over: what the engine and the cells do not take, pages of weights do.
    """
    found = layout(headers)
    whole = sum(header.weight_bytes for header in headers)
    n_ctx = asked or min(headers[0].n_ctx_train or MOST_CTX, _USUAL_CTX)
    need = charge(headers[0], n_ctx, kv_type)
    while not asked and n_ctx > LEAST_CTX and need.kv > _KV_SHARE * _left(need, found.pinned_bytes, free):
        n_ctx = max(LEAST_CTX, n_ctx // 2)
        need = charge(headers[0], n_ctx, kv_type)
    room = free - need.kv - need.compute
    if not found.units or room < found.least:
        least = found.least + need.kv + need.compute
        raise OutOfResources(
            f"the model needs {gigabytes(least)} even with its weights paged and a context of {n_ctx} tokens, "
            f"{gigabytes(max(free, 0))} are free",
            "take a smaller quantisation or context (--ctx), unload other models, or raise the budget (ram)",
        )
    return PagedPlan(n_ctx, min(room, whole), need.kv, need.compute, found.least)


def _left(need: Charge, pinned: int, free: int) -> int:
    return free - need.compute - pinned
