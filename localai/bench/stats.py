"""Intervals for shares and ratios: arrays of answered questions in, values with 95 % intervals out. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
DRAWS = 2000
"""Bootstrap samples; the 95 % bounds then move by about one hundredth of the interval's width."""


class Estimate(msgspec.Struct, frozen=True):
    """A value and its 95 % interval; bounds are None where the data allow none."""

    value: float
    low: float | None = None
    high: float | None = None

    def apart(self, other: Estimate) -> bool:
        """Whether the two intervals have nothing in common."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or self.high < other.low


def wilson(right: int, total: int) -> Estimate:
    """The share `right` / `total` with Wilson's score interval (1927), which holds near 0 and 1 too; `total` > 0."""
    share, square = right / total, Z95**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    # Rounding must not put the share itself outside.
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of the exact test after McNemar (1947): that changed answers fall so unequally by chance alone."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2.0**changed
    return min(1.0, 2 * tail)


def bootstrap(columns: Floats, statistic: Callable[[Floats], Floats], seed: int = 0) -> Estimate:
    """Percentile interval (Efron, 1979) of a statistic of sums over questions.

    `columns` has the shape (questions, figures). `statistic` takes sums of shape (..., figures) and returns (...);
    what is not finite in a draw is left out of the interval, as 0 correct answers per joule of a lucky draw are not.
    """
    count = len(columns)
    value = float(statistic(columns.sum(axis=0)))
    if count < 2:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    # How often each question is drawn: one matrix product gives all sums.
    often = rng.multinomial(count, np.full(count, 1.0 / count), size=DRAWS).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic(often @ columns)
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < DRAWS // 2:
        return Estimate(value)
    low, high = np.quantile(finite, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def ratio(columns: Floats) -> Floats:
    """First figure by second, of sums."""
    result: Floats = np.divide(columns[..., 0], columns[..., 1])
    return result


def paired_ratio(columns: Floats) -> Floats:
    """Of two configurations' (right, joules) on the same questions: the first one's correct answers per joule by the
    second's; the same draw for both, so that hard questions are hard for both."""
    result: Floats = (columns[..., 0] / columns[..., 1]) / (columns[..., 2] / columns[..., 3])
    return result


def mean_difference(columns: Floats) -> Floats:
    """First figure less the second, by the third, of sums."""
    result: Floats = (columns[..., 0] - columns[..., 1]) / columns[..., 2]
    return result
