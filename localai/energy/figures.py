"""The figures of one answer's energy, and what may be said of them. Unknown is None, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Quality = Literal["measured", "measured_partial", "modelled", "none"]
"""`measured`: sensors cover all that computes; `measured_partial`: a part of it; `modelled`: worked out; `none`."""
Method = Literal["counter", "integrated_power", "model"]
Scope = Literal["gpu_board", "cpu_package", "dram", "soc", "platform", "system_battery", "processes"]

_WORST: tuple[Quality, ...] = ("measured", "measured_partial", "modelled", "none")
_CRUDEST: tuple[Method, ...] = ("counter", "integrated_power", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of one answer.

    `joules` is marginal: what the machine took beyond being idle with the model loaded. It is the sum of
    `prefill_joules` and `decode_joules`; `idle_joules`, this answer's share of being idle, comes beside it. `watts`
    are `joules` per second of engine time. `coverage` is the share of the engine time (0 to 1) that readings cover,
    the rest was extended from them. `uncertainty` is half the width of the 95 % interval, relative to `joules`.
    `cpu_seconds` is this answer's CPU time in the engine's process. `predicted_joules` is what the answers before it
    led to expect of so many tokens, `forecast_joules` of `forecast_tokens`, the length that was expected. `reason` says
    why figures are missing or modelled; `stopped` that a budget ended the answer, `paced` that a cap held it back.
    """

    joules: float | None = None
    prefill_joules: float | None = None
    decode_joules: float | None = None
    idle_joules: float | None = None
    watts: float | None = None
    quality: Quality = "none"
    method: Method | None = None
    scope: tuple[Scope, ...] = ()
    coverage: float | None = None
    uncertainty: float | None = None
    cpu_seconds: float | None = None
    predicted_joules: float | None = None
    forecast_joules: float | None = None
    forecast_tokens: float | None = None
    reason: str = ""
    stopped: str = ""
    paced: str = ""

    def as_json(self) -> dict[str, Any]:
        """For answers: numbers to six digits, and words only where there is something to say."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {name: value for name, value in values.items() if value != ""}

    def headers(self) -> dict[str, str]:
        """For answers that are not streamed; figures that are unknown have no header."""
        named = {"Joules": self.joules, "Idle-Joules": self.idle_joules, "Uncertainty": self.uncertainty}
        known = {f"X-Energy-{name}": f"{value:.6g}" for name, value in named.items() if value is not None}
        return {**known, "X-Energy-Quality": self.quality}


def total(parts: Sequence[Energy | None]) -> Energy | None:
    """Several answers as one: sums, the worst quality of any; a sum with an unknown part is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) != len(parts) or not known:
        return None
    if len(known) == 1:
        return known[0]
    joules = _sum([part.joules for part in known])
    spread = _sum([None if p.uncertainty is None or p.joules is None else (p.uncertainty * p.joules) for p in known])
    watts = [part.watts for part in known if part.watts is not None]
    return replace(
        known[0],
        joules=joules,
        prefill_joules=_sum([part.prefill_joules for part in known]),
        decode_joules=_sum([part.decode_joules for part in known]),
        idle_joules=_sum([part.idle_joules for part in known]),
        watts=sum(watts) / len(watts) if len(watts) == len(known) else None,
        quality=max((part.quality for part in known), key=_WORST.index),
        method=max((part.method for part in known if part.method), key=_CRUDEST.index, default=None),
        scope=tuple(sorted({scope for part in known for scope in part.scope})),
        coverage=None if any(p.coverage is None for p in known) else min(p.coverage or 0.0 for p in known),
        uncertainty=spread / joules if spread is not None and joules else None,
        cpu_seconds=_sum([part.cpu_seconds for part in known]),
        predicted_joules=_sum([part.predicted_joules for part in known]),
        forecast_joules=_sum([part.forecast_joules for part in known]),
        forecast_tokens=_sum([part.forecast_tokens for part in known]),
        reason=next((part.reason for part in known if part.reason), ""),
        stopped=next((part.stopped for part in known if part.stopped), ""),
        paced=next((part.paced for part in known if part.paced), ""),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return list(value) if isinstance(value, tuple) else value
