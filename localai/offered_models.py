"""The catalogue's models that are not on this machine, each with about what it would cost here.

A catalogue and one plan enter, rows leave. A plan of its own reads the model's header from the hub; these figures need
nobody: decoding takes as long as reading the weights that a token uses, so a plan of a model here is scaled by size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from localai.catalog import ModelSpec

_BITS = {"F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_1": 5.0, "Q4_0": 4.6}
_USUAL_BITS = 5.0
"""Per weight, where the quantisation is another one."""


def offered(specs: Iterable[ModelSpec], here: Iterable[str], plan: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Rows for all of `specs` whose ids are not among `here`, the smallest first; `plan` is of a model that is here.

    `estimate` holds token/s, joules per token and bytes of memory, None where there is no plan to scale.
    """
    known = set(here)
    rows = [_row(spec, plan) for spec in specs if spec.id not in known and (spec.gguf or spec.package)]
    return sorted(rows, key=lambda row: (row["bytes"], row["id"]))


def _row(spec: ModelSpec, plan: dict[str, Any] | None) -> dict[str, Any]:
    size = size_of(spec)
    return {
        "id": spec.id,
        "name": spec.name,
        "parameters": spec.parameters,
        "quantization": spec.default_quant,
        "context_length": spec.context,
        "bytes": size,
        "capabilities": list(spec.capabilities),
        "licence": spec.licence,
        "gated": spec.gated,
        "estimate": None if plan is None else _estimate(spec, size, plan),
    }


def size_of(spec: ModelSpec) -> int:
    """Bytes of the file that a pull would bring; where the catalogue does not say, by the bits of its weights."""
    listed = spec.gguf.quants.get(spec.default_quant or "") if spec.gguf else None
    known = (listed.bytes if listed else None) or (spec.package.bytes if spec.package else None)
    return known or int(spec.parameters * _BITS.get(spec.default_quant or "", _USUAL_BITS) / 8)


def _estimate(spec: ModelSpec, size: int, plan: dict[str, Any]) -> dict[str, Any] | None:
    rows = [row for row in plan["rows"] if row["fits"] and row["decode_tps"]["value"] > 0]
    if not rows:
        return None
    best = max(rows, key=lambda row: float(row["decode_tps"]["value"]))
    memory = best["memory"]
    used = size * (spec.active_parameters or spec.parameters) / spec.parameters
    ratio = used / max(1, memory["weights_bytes"])
    joules = ((best.get("energy") or {}).get("decode_joules_per_token") or {}).get("value")
    # What a context takes grows more slowly than the weights do: with layers and width, not with their square.
    context = (memory["kv_bytes"] + memory["compute_bytes"]) * max(1.0, size / max(1, memory["weights_bytes"])) ** 0.5
    needed = int(size + context)
    device = plan["device"]
    return {
        "decode_tps": float(f"{best['decode_tps']['value'] / ratio:.3g}"),
        "joules_per_token": None if joules is None else float(f"{joules * ratio:.3g}"),
        "ram_bytes": needed,
        "fits": needed <= device["ram_bytes"] + device["vram_bytes"],
        "scaled_from": plan["model"],
    }
