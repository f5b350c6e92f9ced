"""How the cost of one engine step divides among its jobs: step records in, weights of work out. Pure.

A step costs something by itself (the weights are read once), something per token, and something per token and token of
context. The three are fitted to the steps seen, by least squares of relative errors, and none is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.contract import Share, StepRecord

_FORGET = 0.995
"""What is left of a step's weight in the fit after the next one."""
_REFIT = 64
_FIRST = (1.0, 0.5, 0.0)
"""Taken before the first fit: a step by itself costs as much as two tokens."""


@dataclass(frozen=True, slots=True)
class Part:
    """One job's part of a step; `share` of 1. `prefill` says which phase it was in."""

    job: int
    share: float
    prefill: bool


@dataclass(frozen=True, slots=True)
class Amount:
    """Work of one job in one phase: its parts of steps, tokens, and tokens times thousands of tokens looked back on."""

    steps: float = 0.0
    tokens: float = 0.0
    looked: float = 0.0

    def plus(self, steps: float, tokens: float, looked: float) -> Amount:
        return Amount(self.steps + steps, self.tokens + tokens, self.looked + looked)


Cost = tuple[float, float, float]
"""What a step by itself, a token, and a token that looks back on a thousand others cost."""


def units(cost: Cost, amount: Amount) -> float:
    """How much work that is, in the engine's own unit."""
    by_step, by_token, by_depth = cost
    # Steps of one token alone do not tell the two apart.
    by_token = by_token or by_step * _FIRST[1] / _FIRST[0]
    return by_step * amount.steps + by_token * amount.tokens + by_depth * amount.looked


@dataclass(slots=True)
class StepCost:
    """What this engine's steps cost, in its own unit; only ratios matter."""

    _products: list[list[float]] = field(default_factory=lambda: [[0.0] * 3 for _ in range(3)])
    _targets: list[float] = field(default_factory=lambda: [0.0] * 3)
    _steps: int = 0
    _cost: Cost = _FIRST

    @property
    def cost(self) -> Cost:
        """As far as it is known by now."""
        return self._cost

    def learn(self, record: StepRecord) -> None:
        """Take a step into account."""
        seconds = record.t1 - record.t0 - (record.switch_s or 0.0)
        if seconds <= 0 or not record.shares:
            return
        tokens, looked = 0.0, 0.0
        for share in record.shares:
            count, depth = amounts(share)
            tokens, looked = tokens + count, looked + depth
        row = (1.0 / seconds, tokens / seconds, looked / seconds)
        for i in range(3):
            for j in range(3):
                self._products[i][j] = _FORGET * self._products[i][j] + row[i] * row[j]
            self._targets[i] = _FORGET * self._targets[i] + row[i]
        self._steps += 1
        if self._steps % _REFIT == 0:
            self._cost = _non_negative(self._products, self._targets) or self._cost

    def parts(self, record: StepRecord) -> tuple[Part, ...]:
        """Each job's share of the step. Choices of one job are one part per phase."""
        by_step, by_token, by_depth = self._cost
        each = by_step / max(1, len(record.shares))
        weights: dict[tuple[int, bool], float] = {}
        for share in record.shares:
            tokens, looked = amounts(share)
            key = share.job, share.prefilled > 0
            weights[key] = weights.get(key, 0.0) + each + by_token * tokens + by_depth * looked
        total = sum(weights.values())
        return tuple(Part(job, weight / total, prefill) for (job, prefill), weight in weights.items())


def amounts(share: Share) -> tuple[float, float]:
    """Tokens, and tokens times the mean context that they look back on, in thousands."""
    tokens = share.prefilled + share.decoded
    return float(tokens), tokens * max(0.0, share.context - tokens / 2) / 1000


def _non_negative(products: list[list[float]], targets: list[float]) -> Cost | None:
    """The best fit without negative costs: the most negative one is set to 0 until none is left."""
    kept = [0, 1, 2]
    while kept:
        solved = _solve([[products[i][j] for j in kept] for i in kept], [targets[i] for i in kept])
        if solved is None or min(solved) < 0:
            kept.pop() if solved is None else kept.remove(kept[solved.index(min(solved))])
            continue
        cost = [0.0, 0.0, 0.0]
        for place, value in zip(kept, solved, strict=True):
            cost[place] = value
        return (cost[0], cost[1], cost[2]) if sum(cost) > 0 else None
    return None


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gaussian elimination with pivots; None where the rows do not tell the unknowns apart."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if abs(rows[pivot][column]) <= 1e-9 * abs(matrix[column][column]) or not rows[pivot][column]:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(size):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]
