"""What quantised keys and values cost in accuracy: readings of one text in, percent of perplexity and agreement out.

Pure. Each engine's KV types are compared with its most faithful one, token by token.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from localai.calibration_store import CalibrationStore, KvReading, Subject, identity
from localai.errors import OutOfResources
from localai.local_model import LocalModel
from localai.offers import build_label

_log = logging.getLogger(__name__)

KV_WAYS: dict[str, tuple[tuple[str, str], ...]] = {
    "llama.cpp": (("", "f16"), ("", "q8_0"), ("", "q4_0")),
    "onnx": (("", "f32"), ("kv8", "int8")),
}
"""Mode and KV type of what each backend can store keys and values in, the one that others are compared with first."""
LEAST_TOKENS = 64
"""Of the text, below which a comparison says nothing."""

_SURE = 1.645
"""Standard errors within which a figure lies above, or below, with a probability of 95 %."""

Key = tuple[str, str, str]
"""Backend, mode, KV type."""


@dataclass(frozen=True, slots=True)
class KvCost:
    """What a KV type costs against `against`, the most faithful one of its backend; `problem` is why it cannot be told.

    `perplexity` is a change in percent, of which `error` is the standard error; `agreement` the percent of `tokens`
    whose likeliest token is the same. `tps` is decode in token/s behind `depth` tokens, `speed` times the other's.
    """

    kv_type: str
    against: str
    perplexity: float = 0.0
    error: float = 0.0
    agreement: float = 100.0
    tokens: int = 0
    tps: float = 0.0
    speed: float = 1.0
    depth: int = 0
    problem: str = ""

    @property
    def least(self) -> float:
        """Percent of perplexity that it costs at least, with a probability of 95 %."""
        return self.perplexity - _SURE * self.error

    @property
    def most(self) -> float:
        """Percent of perplexity that it costs at most, with a probability of 95 %."""
        return self.perplexity + _SURE * self.error

    @property
    def words(self) -> str:
        """For people, as part of a sentence."""
        if self.problem:
            return f"{self.kv_type} cannot be used here: {self.problem}"
        return (
            f"{self.kv_type} changes perplexity by {self.perplexity:+.1f} ± {_SURE * self.error:.1f} % here, and keeps "
            f"{self.agreement:.0f} % of the likeliest tokens of {self.against}"
        )


def kv_costs(readings: Iterable[KvReading]) -> dict[Key, KvCost]:
    """By backend, mode and type, of readings of one model on one device; types that were not measured are missing."""
    known = {_key(reading.subject, reading.kv_type): reading for reading in readings}
    found: dict[Key, KvCost] = {}
    for backend, ways in KV_WAYS.items():
        base = known.get((backend, *ways[0]))
        for mode, kv_type in ways:
            own = known.get((backend, mode, kv_type))
            if own is not None and base is not None:
                found[backend, mode, kv_type] = _cost(own, base)
    return found


def costs_here(store: CalibrationStore, device: str, model: LocalModel) -> dict[Key, KvCost]:
    """What KV types cost with `model` on a device and the libraries that are installed now. Raises OSError.

    Nothing where the store cannot be read, which must keep nobody from loading the model.
    """
    try:
        readings = store.kv_readings(device, identity(model.base or model))
    except OutOfResources as error:
        _log.warning("what KV types cost is not known: %s", error.message)
        return {}
    return kv_costs(r for r in readings if r.subject.build == build_label(r.subject.backend))


def _key(subject: Subject, kv_type: str) -> Key:
    return subject.backend, subject.mode, kv_type


def _cost(own: KvReading, base: KvReading) -> KvCost:
    count = min(len(own.surprises), len(base.surprises))
    if own.problem or base.problem or count < LEAST_TOKENS or own.ids[:count] != base.ids[:count]:
        problem = own.problem or base.problem or "too little was read to tell its accuracy"
        return KvCost(own.kv_type, base.kv_type, problem=problem)
    apart = [a - b for a, b in zip(own.surprises[:count], base.surprises[:count], strict=True)]
    alike = sum(a == b for a, b in zip(own.likeliest[:count], base.likeliest[:count], strict=True))
    return KvCost(
        kv_type=own.kv_type,
        against=base.kv_type,
        perplexity=round(100 * math.expm1(fmean(apart)), 3),
        error=round(100 * stdev(apart) / math.sqrt(count), 3),
        agreement=round(100 * alike / count, 2),
        tokens=count,
        tps=round(1 / own.step_s, 1) if own.step_s else 0.0,
        speed=round(base.step_s / own.step_s, 3) if own.step_s else 1.0,
        depth=own.depth,
    )
