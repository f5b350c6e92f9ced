"""An order of how faithfully a configuration keeps the original model: labels enter, a sortable rank leaves. Pure."""

from __future__ import annotations

Fidelity = tuple[float, int, int]
"""Loss by the weights' quantisation, by the engine's mode, by the KV cache's type: less is more faithful."""

_LOSS: dict[str, float] = {
    "F32": 0.0,
    "F16": 0.002,
    "BF16": 0.002,
    "Q8_0": 0.0026,
    "Q6_K": 0.0217,
    "Q5_K_M": 0.0569,
    "Q5_K": 0.0569,
    "Q5_K_S": 0.1049,
    "Q5_1": 0.1062,
    "Q5_0": 0.1316,
    "Q4_K_M": 0.1754,
    "Q4_K": 0.1754,
    "Q4_K_S": 0.2689,
    "IQ4_NL": 0.28,
    "IQ4_XS": 0.29,
    "MXFP4": 0.3,
    "NVFP4": 0.3,
    "Q4_1": 0.4511,
    "Q4_0": 0.4685,
    "Q3_K_L": 0.5562,
    "Q3_K_M": 0.6569,
    "Q3_K": 0.6569,
    "IQ3_M": 0.8,
    "IQ3_S": 0.9,
    "IQ3_XS": 1.1,
    "IQ3_XXS": 1.4,
    "Q3_K_S": 1.6321,
    "IQ2_M": 3.0,
    "Q2_K_S": 3.1836,
    "Q2_K": 3.5199,
    "IQ2_S": 4.0,
    "IQ2_XS": 5.0,
    "IQ2_XXS": 8.0,
}
"""Added perplexity of an 8B model, as llama.cpp's quantisation tool lists it (integers and K-quants); where it does
not, an interpolation by size that serves the order only. Models trained in MXFP4 lose nothing, and have no other."""

_UNKNOWN = 10.0
_KV = {"f32": 0, "f16": 1, "bf16": 1, "q8_0": 2, "q5_1": 3, "q5_0": 3, "q4_1": 4, "q4_0": 4}


def fidelity(quant: str, mode: str, kv_type: str) -> Fidelity:
    """Rank of a configuration; the weights decide first, then the mode ('' is an engine's most faithful one)."""
    label = quant.upper().removeprefix("UD-").removesuffix("_MOE")
    loss = _LOSS.get(label)
    if loss is None:
        loss = next((known for name, known in _LOSS.items() if label.startswith(name)), _UNKNOWN)
    return loss, int(mode != ""), _KV.get(kv_type, max(_KV.values()) + 1)
