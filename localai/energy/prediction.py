"""What work will take before it is done: seconds of a forecast or of the planner's roofline, times watts. Pure."""

from __future__ import annotations

from typing import Any

from localai.energy.draw import Draw
from localai.energy.taps import Rates
from localai.forecast import Speeds, Workload


def query_joules(speeds: Speeds, draw: Draw, work: Workload) -> float | None:
    """Joules beyond idle of a request on a loaded engine; None where a phase of it was not measured."""
    if work.embeds:
        seconds = speeds.seconds(work)
        return None if seconds is None or draw.prefill is None else seconds * draw.prefill
    if draw.prefill is None or (draw.decode is None and work.answer):
        return None
    new = max(1, work.prompt - work.cached)
    answer = speeds.decode(work.answer, work.prompt, work.sequences) * (draw.decode or 0.0)
    return work.prompts * speeds.prefill(new, work.cached) * draw.prefill + answer


def token_rates(speeds: Speeds, draw: Draw) -> Rates:
    """Joules of a token in each phase at a small depth, for engines that have answered nothing yet."""
    prefill, decode = speeds.rates()
    return Rates(
        prefill=None if draw.prefill is None else draw.prefill / prefill,
        decode=None if draw.decode is None else draw.decode / decode,
    )


Range = tuple[float, float, float]
"""Value, low and high of a rate in token/s."""


def row_joules(prefill: Range, decode: Range, draw: Draw) -> dict[str, Any]:
    """Joules per token of a planned row, each with its range."""
    return {
        "prefill_joules_per_token": _per_token(draw.prefill, prefill, draw.spread),
        "decode_joules_per_token": _per_token(draw.decode, decode, draw.spread),
        "quality": draw.quality,
        "basis": draw.basis,
    }


def _per_token(watts: float | None, rate: Range, spread: float) -> dict[str, float] | None:
    if watts is None:
        return None
    value, low, high = rate
    numbers = {
        "value": watts / value,
        "low": (1 - spread) * watts / high,
        "high": (1 + spread) * watts / low,
    }
    return {name: float(f"{number:.4g}") for name, number in numbers.items()}
