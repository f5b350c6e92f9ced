"""What one engine step moves and computes: a model's shape and a step enter, amounts of each kind of work leave.

The roofline's model of an engine, without its speeds: bytes of weights and KV, floating-point operations, and the
overheads that go with steps, layers and experts. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from backends.ggml_types import KV_TYPES, KvType
from localai.readings import Shape

LARGE_STEP = 64
"""Tokens of a sequence in a step from which on attention kernels share what they load among queries."""

FEW_ROWS = 8
"""Rows from which on a matrix product fills the tiles of its kernel."""

_USUAL = 20
"""Values in and out of a dense layer's matrices per value of its width."""

_FAMILY = re.compile(r"I?Q\d_[01K]|MXFP4|NVFP4|BF16|F16|F32|I?Q\d|TQ\d")


@dataclass(frozen=True, slots=True)
class Step:
    """`tokens` new tokens of each of `sequences` sequences that hold `depth` tokens; each gives its last logits."""

    tokens: int
    depth: int
    sequences: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """`amount` units of work, whose cost in seconds per unit is the product of the named factors."""

    amount: float
    factors: tuple[str, ...]


def family(quant: str) -> str:
    """Quantisations that one kernel computes with: Q4_K_M and Q4_K_S are both Q4_K; others stand for themselves."""
    match = _FAMILY.search(quant.upper())
    return match.group() if match else quant.upper()


def work(shape: Shape, step: Step, kv_type: str) -> tuple[Work, ...]:
    """All that `step` takes; nothing of it is negative, and no amount shrinks as bytes, tokens or depth grow."""
    tokens, rows = step.tokens * step.sequences, step.sequences
    own, head = family(shape.quant), family(shape.head_type or shape.quant)
    share = shape.experts_used / shape.experts if shape.experts else 1.0
    # Tokens choose their experts apart from each other, so that a step touches more of them the longer it is.
    touched = 1 - (1 - share) ** tokens
    dense_bytes = shape.weight_bytes - shape.head_bytes - int(share * shape.expert_bytes)
    looked_back = _seen(shape, step)
    attention = "attention" if step.tokens < LARGE_STEP else "attention, large"
    cell = KV_TYPES[cast(KvType, kv_type)]
    found = (
        Work(1, ("step",)),
        Work(shape.layers, ("layer",)),
        Work(dense_bytes, _reading(own, tokens)),
        Work(shape.head_bytes, _reading(head, rows)),
        Work(tokens * (shape.flops - shape.expert_flops), _product(own, tokens)),
        Work(rows * shape.head_flops, _product(head, rows)),
        Work(touched * shape.expert_bytes, ("weights", f"weights {own}", "experts")),
        Work(tokens * shape.expert_flops, (*_product(own, tokens), "expert flops", f"expert flops {own}")),
        Work(touched * shape.experts * shape.layers, ("expert",)),
        Work(tokens * (shape.activations or _USUAL * shape.layers * shape.width), ("activations",)),
        Work(step.sequences * looked_back * shape.kv_values * cell.size / cell.block, ("kv",)),
        Work(tokens * looked_back * shape.attention_flops, (attention,)),
    )
    return tuple(part for part in found if part.amount > 0)


def _reading(kernel: str, rows: int) -> tuple[str, ...]:
    return ("weights", f"weights {kernel}") if rows == 1 else ("weights", f"weights {kernel}", "several")


def _product(kernel: str, rows: int) -> tuple[str, ...]:
    return ("flops", f"flops {kernel}", "few") if rows < FEW_ROWS else ("flops", f"flops {kernel}")


def _seen(shape: Shape, step: Step) -> float:
    """Tokens that a new token of the step looks back on, as a mean over the step and the layers."""
    whole = step.depth + (step.tokens + 1) / 2
    return (1 - shape.windowed) * whole + shape.windowed * min(whole, shape.window)
