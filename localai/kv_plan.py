"""What each KV type takes and costs with one model here, and which one would be taken, as `models plan` tells it.

A variant, the room, settings and measured costs enter, JSON-able rows leave. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from localai.budget import MOST_CTX, gigabytes
from localai.config import Config
from localai.errors import OutOfResources
from localai.kv_accuracy import KV_WAYS, Key, KvCost
from localai.kv_choice import MEASURE, KvTypes, choose_kv, kv_types
from localai.paged_plan import can_page, paged_plan_with
from localai.planner import Room, Variant, Way

_STEP = 256
_PROBE = 1024
"""Tokens whose bytes are told apart from what does not depend on their number."""


def kv_rows(
    variant: Variant, room: Room, costs: Mapping[Key, KvCost], backends: Sequence[str], *, here: bool
) -> list[dict[str, Any]]:
    """One row for each KV type of `backends`: bytes, the longest context, what it costs, how fast it decodes."""
    return [
        _row(variant, room, Way(backend, "", mode, 1, kv_type), costs.get((backend, mode, kv_type)), here=here)
        for backend in backends
        for mode, kv_type in KV_WAYS.get(backend, ())
    ]


def kv_taken(variant: Variant, room: Room, asked: int, config: Config, costs: Mapping[Key, KvCost]) -> dict[str, Any]:
    """What llama.cpp would store keys and values in, by the settings, and why."""
    types: KvTypes = kv_types(config.kv_type, variant.header, costs, config.kv_loss)
    # The sister quantisations of a repository share a header; what differs are the weights.
    other = variant.shape.resident_bytes - variant.header.weight_bytes
    try:
        taken = choose_kv(types, variant.header, asked or config.ctx, room.ram - other)
    except OutOfResources as error:
        return _paged(variant, types, room, asked or config.ctx, config) or {
            "kv_type": None,
            "context": None,
            "reason": error.message,
        }
    fits = f"{taken.kv_type} is set" if len(types.allowed) == 1 else f"{taken.kv_type} fits {taken.n_ctx} tokens"
    return {"kv_type": taken.kv_type, "context": taken.n_ctx, "reason": taken.reason or fits}


def _paged(variant: Variant, types: KvTypes, room: Room, asked: int, config: Config) -> dict[str, Any] | None:
    """What would be taken where weights are paged, None where they cannot be."""
    if not variant.parts or not can_page("llama.cpp", config.paging):
        return None
    try:
        plan, kv_type = paged_plan_with(types.allowed, variant.parts, asked, room.ram)
    except OutOfResources:
        return None
    return {"kv_type": kv_type, "context": plan.n_ctx, "reason": f"weights, not {kv_type} KV, give way to the budget"}


def _row(variant: Variant, room: Room, way: Way, cost: KvCost | None, *, here: bool) -> dict[str, Any]:
    each = (variant.charge(2 * _PROBE, way).kv - variant.charge(_PROBE, way).kv) / _PROBE
    measured = cost is not None and not cost.problem
    trained = variant.header.n_ctx_train or MOST_CTX
    return {
        "backend": way.backend,
        "mode": way.mode,
        "kv_type": way.kv_type,
        "bytes_per_token": round(each),
        "context": _longest(variant, room, way, trained),
        "context_trained": trained,
        "against": cost.against if cost else KV_WAYS[way.backend][0][1],
        "perplexity_percent": cost.perplexity if cost and measured else None,
        "perplexity_error": cost.error if cost and measured else None,
        "agreement_percent": cost.agreement if cost and measured else None,
        "tokens": cost.tokens if cost and measured else None,
        "decode_tps": cost.tps if cost and measured else None,
        "depth": cost.depth if cost and measured else None,
        "problem": cost.problem if cost else "",
        "hint": "" if cost else MEASURE if here else f"after `localai models pull`, {MEASURE}",
    }


def _longest(variant: Variant, room: Room, way: Way, trained: int) -> int:
    """The longest context up to what the model was trained for that fits into RAM; 0 where none does."""
    sizes = [*range(_STEP, trained, _STEP), trained]

    def too_long(n_ctx: int) -> bool:
        return variant.charge(n_ctx, way).total > room.ram

    fitting = bisect_left(sizes, True, key=too_long)
    return sizes[fitting - 1] if fitting else 0


def kv_text(value: Mapping[str, Any]) -> list[str]:
    """The rows as a table for people, with what would be taken."""
    head = ["KV", "BACKEND", "PER TOKEN", "CONTEXT", "PERPLEXITY", "ALIKE", "DECODE"]
    lines = [head, *(_line(row) for row in value["kv_types"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["", *("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)]
    tokens = {row["tokens"] for row in value["kv_types"] if row["tokens"]}
    if tokens:
        text.append(
            f"Measured here, a token per step, over {min(tokens)} tokens: change of perplexity with its standard "
            "error, likeliest tokens that stay, token/s."
        )
    missing = sorted({row["hint"] for row in value["kv_types"] if row["hint"]})
    text += [f"? not measured yet: `{hint}`" if "`" not in hint else f"? not measured yet: {hint}" for hint in missing]
    text += [f"{row['kv_type']}: {row['problem']}" for row in value["kv_types"] if row["problem"]]
    taken = value["kv_taken"]
    return [*text, f"llama.cpp would take {taken['kv_type'] or 'no type'}: {taken['reason']}"]


def _line(row: Mapping[str, Any]) -> list[str]:
    known = row["perplexity_percent"] is not None
    base = row["kv_type"] == row["against"]
    return [
        row["kv_type"],
        " ".join(filter(None, (row["backend"], row["mode"]))),
        gigabytes(row["bytes_per_token"])
        if row["bytes_per_token"] >= 2**20
        else f"{row['bytes_per_token'] / 1024:.1f} KiB",
        str(row["context"]) if row["context"] else "none fits",
        "-" if base else f"{row['perplexity_percent']:+.1f} ± {row['perplexity_error']:.1f} %" if known else "?",
        "-" if base else f"{row['agreement_percent']:.0f} %" if known else "?",
        f"{row['decode_tps']:.0f}" if known else "?",
    ]
