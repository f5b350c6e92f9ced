"""Foretells how long a step takes: readings of this device enter, a fitted model that predicts other models leaves.

A step's seconds are a sum over kinds of work (`step_costs`), each at a cost per unit that is fitted in logarithms, so
that no cost is negative. Every cost begins at a typical figure with a wide spread, and readings narrow what they tell
about: the error bar of a prediction grows with its distance from what was measured. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from localai.readings import Reading, Shape
from localai.step_costs import Step, Work, work

_Vector = NDArray[np.float64]

_BAR = 1.645
"""Standard deviations to either side: nine of ten measurements should lie inside."""
_LEAST_SPREAD = 0.03
_FIRST_SPREAD, _FIRST_WEIGHT = 0.08, 4.0
"""The scatter of measurements about the model (of their logarithm) before any is known, and the readings it counts
for."""
_UNSEEN = 0.09
"""Scatter added for a model that was not measured itself: kernels suit some matrices better than others."""
_OUTLIER = 2.0
_PASSES, _ROUNDS = 20, 5

_CPU: dict[str, tuple[float, float]] = {
    "step": (60e-6, 1.0),
    "layer": (20e-6, 1.0),
    "weights": (1 / 20e9, 0.7),
    "flops": (1 / 35e9, 0.8),
    "few": (1.2, 0.4),
    "several": (1.2, 0.4),
    "experts": (1.0, 0.3),
    "expert flops": (1.5, 0.6),
    "expert": (1e-6, 1.0),
    "activations": (0.3e-9, 1.0),
    "kv": (1 / 20e9, 0.8),
    "attention": (1 / 8e9, 0.8),
    "attention, large": (1 / 16e9, 0.8),
}
"""Typical costs of a CPU, in seconds per unit, and the spread of their logarithms among CPUs; the costs of computing
are those of one thread."""
_GPU: dict[str, tuple[float, float]] = {
    "step": (200e-6, 1.0),
    "layer": (20e-6, 1.0),
    "weights": (1 / 250e9, 1.0),
    "flops": (1 / 10e12, 1.2),
    "few": (1.0, 0.5),
    "several": (1.0, 0.5),
    "experts": (1.0, 0.5),
    "expert flops": (2.0, 0.7),
    "expert": (1e-6, 1.0),
    "activations": (1e-12, 1.0),
    "kv": (1 / 200e9, 1.0),
    "attention": (1 / 1e12, 1.2),
    "attention, large": (1 / 4e12, 1.2),
}
_SECONDS = frozenset(_CPU) - {"few", "several", "experts", "expert flops"}
"""Costs in seconds per unit; the others are factors about 1."""
_TILED = frozenset({"F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q4_K", "Q2_K", "IQ4", "MXFP4"})
"""Quantisations that llama.cpp multiplies in tiles on a CPU (its sgemm.cpp and repack.cpp); row by row, the others take
about _UNTILED times as long per operation."""
_UNTILED = 3.0
_BY_KIND = {"weights": 0.35, "flops": 0.5, "expert flops": 0.5}
"""Spread between the kernels of two quantisations on one device, where only one of them was measured."""
_COMPUTING = ("flops", "attention", "attention, large", "activations")
_OTHER = {"build": 0.25, "mode": 0.7, "threads": 0.3, "kv_type": 0.15}
"""Spread added where readings of another build, mode, count of threads or KV type stand in."""
_SAID = {
    "build": "another build",
    "mode": "another mode",
    "threads": "another count of threads",
    "kv_type": "another KV type",
}


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run an engine; `offloaded` is the share of the layers on a GPU, 0 or 1."""

    backend: str
    build: str
    mode: str
    threads: int
    kv_type: str
    offloaded: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """`value` in seconds or token/s; nine of ten measurements should lie from `low` to `high`. `basis` says on what
    it rests, `measured` whether readings of this device are part of that."""

    value: float
    low: float
    high: float
    basis: str
    measured: bool = True

    def inverse(self, amount: float = 1.0) -> Prediction:
        """`amount` / value: a rate from a time, or the other way round."""
        return replace(self, value=amount / self.value, low=amount / self.high, high=amount / self.low)


@dataclass(frozen=True, slots=True)
class Roofline:
    """What a unit of each kind of work costs in one setup.

    `costs` are logarithms of the fitted factors, in the order of the rows of `covariance`; those of kernels that no
    reading touched are not among them. `spread` is the scatter of readings about the model, `shapes` what they are of.
    """

    setup: Setup
    costs: dict[str, float]
    covariance: _Vector
    spread: float
    shapes: frozenset[Shape]
    basis: str
    measured: bool

    def seconds(self, shape: Shape, steps: Sequence[Step]) -> Prediction:
        """Of all `steps`, one after the other."""
        parts = [part for step in steps for part in work(shape, step, self.setup.kv_type)]
        times = [part.amount * math.exp(sum(self._cost(name) for name in part.factors)) for part in parts]
        total = sum(times)
        shares: dict[str, float] = {}
        for part, seconds in zip(parts, times, strict=True):
            for name in part.factors:
                shares[name] = shares.get(name, 0.0) + seconds / total
        known = np.array([shares.get(name, 0.0) for name in self.costs])
        variance = self.spread**2 + float(known @ self.covariance @ known)
        variance += 0.0 if shape in self.shapes else _UNSEEN**2
        variance += sum((shares[name] * _prior(name, self.setup)[1]) ** 2 for name in shares.keys() - self.costs.keys())
        bar = math.exp(_BAR * math.sqrt(variance))
        return Prediction(total, total / bar, total * bar, self.basis, self.measured)

    def rate(self, shape: Shape, step: Step) -> Prediction:
        """Token/s of a step: new tokens over all sequences."""
        return self.seconds(shape, [step]).inverse(step.tokens * step.sequences)

    def _cost(self, name: str) -> float:
        return self.costs[name] if name in self.costs else _prior(name, self.setup)[0]


def fit(readings: Sequence[Reading], setup: Setup) -> Roofline:
    """The costs of `setup` that explain the prefill and decode readings taken in it.

    Where there are none, those of its nearest neighbour of the same backend stand in, with wider error bars; where that
    has none either, typical figures. The basis of each prediction tells which.
    """
    found, differing = _nearest(readings, setup)
    processor = "GPU" if setup.offloaded else "CPU"
    if not found:
        basis = f"typical figures of such a {processor}: {setup.backend} was not measured here"
        return Roofline(setup, {}, np.zeros((0, 0)), _FIRST_SPREAD, frozenset(), basis, measured=False)
    measured = _setup_of(found[0])
    costs, covariance, spread = _solve(found, measured)
    basis = f"{len(found)} readings of {setup.backend} on this device"
    if differing:
        basis += f" with {' and '.join(_SAID[field] for field in differing)}"
        for name in costs:
            costs[name] += _prior(name, setup)[0] - _prior(name, measured)[0]
        spread = math.hypot(spread, *(_OTHER[field] for field in differing))
    shapes = frozenset(reading.shape for reading in found)
    return Roofline(setup, costs, covariance, spread, shapes, basis, measured=True)


def _setup_of(reading: Reading) -> Setup:
    r = reading
    return Setup(r.backend, r.build, r.mode, r.threads, r.kv_type, r.offloaded)


def _nearest(readings: Sequence[Reading], setup: Setup) -> tuple[list[Reading], tuple[str, ...]]:
    """The readings of the setup that differs least, and the fields in which it does; newest first where alike."""
    groups: dict[Setup, list[Reading]] = {}
    for reading in readings:
        own = reading.backend == setup.backend and reading.offloaded == setup.offloaded
        if own and reading.phase in ("prefill", "decode") and reading.seconds > 0:
            groups.setdefault(_setup_of(reading), []).append(reading)
    if not groups:
        return [], ()

    def differing(other: Setup) -> tuple[str, ...]:
        return tuple(field for field in _OTHER if getattr(other, field) != getattr(setup, field))

    def rank(other: Setup) -> tuple[float, int, float]:
        distance = math.hypot(*(_OTHER[field] for field in differing(other)))
        return distance, abs(other.threads - setup.threads), -max(r.at for r in groups[other])

    best = min(groups, key=rank)
    return groups[best], differing(best)


def _prior(name: str, setup: Setup) -> tuple[float, float]:
    """Logarithm of the typical cost and its spread; what tells two kernels of one kind apart is a factor about 1."""
    table = _GPU if setup.offloaded else _CPU
    if name in table:
        typical, spread = table[name]
        shared = 1 if setup.offloaded or name not in _COMPUTING else max(1, setup.threads)
        return math.log(typical / shared), spread
    kind, _, kernel = name.rpartition(" ")
    slow = setup.backend == "llama.cpp" and not setup.offloaded and kind == "flops" and kernel not in _TILED
    return math.log(_UNTILED) if slow else 0.0, _BY_KIND[kind]


def _solve(readings: Sequence[Reading], setup: Setup) -> tuple[dict[str, float], _Vector, float]:
    """The most probable costs given typical ones and the readings, by damped Gauss-Newton steps on logarithms.

    The scatter is learnt in rounds. In the first all readings count alike, as the typical costs may be far off; then
    the less, the farther they lie off the model (Cauchy's weights).
    """
    parts = [work(r.shape, Step(r.tokens, r.depth, r.sequences), setup.kv_type) for r in readings]
    names = tuple(dict.fromkeys((*_CPU, *(name for row in parts for part in row for name in part.factors))))
    priors = [_prior(name, setup) for name in names]
    typical, certainty = np.array([p[0] for p in priors]), np.array([p[1] ** -2 for p in priors])
    system = _System(readings, parts, names)
    # A device may be slower or faster than the typical one in every respect at once.
    unit = np.array([name in _SECONDS for name in names], dtype=np.float64)
    typical = typical + np.median(system.at(typical)[0]) * unit
    costs, spread = typical.copy(), _FIRST_SPREAD
    for round_ in range(_ROUNDS):
        for _ in range(_PASSES):
            miss, slope = system.at(costs)
            doubt = 1 + (miss / (_OUTLIER * spread)) ** 2 if round_ else np.ones(len(miss))
            weight = 1 / doubt / spread**2
            curvature = slope.T @ (weight[:, None] * slope) + np.diag(certainty)
            pull = slope.T @ (weight * miss) + certainty * (typical - costs)
            costs = costs + np.clip(np.linalg.solve(curvature, pull), -1.0, 1.0)
        miss, slope = system.at(costs)
        covariance: _Vector = np.linalg.inv(curvature).astype(np.float64)
        used = float(np.trace(covariance @ (slope.T @ (weight[:, None] * slope))))
        squares = float(((weight * spread**2) * miss**2).sum()) + _FIRST_WEIGHT * _FIRST_SPREAD**2
        free = max(1.0, len(readings) - used) + _FIRST_WEIGHT
        spread = max(_LEAST_SPREAD, math.sqrt(squares / free))
    return dict(zip(names, costs.tolist(), strict=True)), covariance, spread


class _System:
    """The readings as logarithms of sums of products, for a solver."""

    def __init__(self, readings: Sequence[Reading], parts: Sequence[tuple[Work, ...]], names: Sequence[str]) -> None:
        index = {name: place for place, name in enumerate(names)}
        flat = [(row, part) for row, own in enumerate(parts) for part in own]
        self._row = np.array([row for row, _ in flat])
        self._amount = np.log([part.amount for _, part in flat])
        self._factor = np.zeros((len(flat), len(names)))
        for place, (_, part) in enumerate(flat):
            for name in part.factors:
                self._factor[place, index[name]] = 1.0
        self._seconds = np.log([reading.seconds for reading in readings])

    def at(self, costs: _Vector) -> tuple[_Vector, _Vector]:
        """How far the logarithm of each reading lies above the model, and the model's slope along each cost."""
        times = np.exp(self._amount + self._factor @ costs)
        totals = np.zeros(len(self._seconds))
        np.add.at(totals, self._row, times)
        slope = np.zeros((len(totals), len(costs)))
        np.add.at(slope, self._row, self._factor * times[:, None])
        return self._seconds - np.log(totals), slope / totals[:, None]
