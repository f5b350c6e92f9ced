"""What a step of n tokens costs on this device, learned from the steps that ran. Knows not who asked for them."""

from __future__ import annotations

_WEIGHT = 0.5
"""Share of the newest reading in the running mean: follows a neighbour or a growing context within a few steps."""
_OUTLIER = 3.0
"""A reading counts as at most this many times the mean: one step that lost its core says little of the next."""
_FORGET = 0.999
"""Share of a size's cost that is kept per reading of another size: what was dear once is tried again after a while."""
_DRIFT = 1.002
"""Growth per reading of the best cost seen, so that a deeper context does not look like a neighbour for long."""


class StepCosts:
    """Seconds per step as a function of its token count, for one thread setting.

    Readings are kept per power of two and joined by straight lines: a step's cost is close to affine in its tokens on
    a CPU and flat on a GPU, and both are straight between neighbours.
    """

    def __init__(self) -> None:
        self._mean: dict[int, tuple[float, float]] = {}

    def copy(self) -> StepCosts:
        """The same readings, to be changed apart."""
        made = StepCosts()
        made._mean = dict(self._mean)
        return made

    def add(self, tokens: int, seconds: float) -> None:
        """Note that a step of `tokens` took `seconds`."""
        bucket = tokens.bit_length()
        old = self._mean.get(bucket)
        for other, (n, s) in self._mean.items():
            if other > bucket:
                self._mean[other] = (n, _FORGET * s)
        if old is None:
            self._mean[bucket] = (float(tokens), seconds)
        else:
            n, s = old
            self._mean[bucket] = (n + _WEIGHT * (tokens - n), s + _WEIGHT * (min(seconds, _OUTLIER * s) - s))

    def add_best(self, tokens: int, seconds: float) -> None:
        """Note `seconds` as the cost of `tokens` if nothing seen so far promises less; what is known ages a little."""
        promised = self.estimate(tokens)
        best = seconds if promised is None else min(seconds, _DRIFT * promised)
        self._mean[tokens.bit_length()] = (float(tokens), best)

    def estimate(self, tokens: int) -> float | None:
        """Expected seconds of a step of `tokens`, never less than of a smaller one; None before the first reading."""
        points: list[tuple[float, float]] = []
        for n, s in sorted(self._mean.values()):
            points.append((n, max(s, points[-1][1] if points else 0.0)))
        if not points:
            return None
        below = [p for p in points if p[0] <= tokens]
        above = [p for p in points if p[0] > tokens]
        if below and above:
            (n0, s0), (n1, s1) = below[-1], above[0]
            return s0 + (s1 - s0) * (tokens - n0) / (n1 - n0)
        if above:
            return above[0][1]
        n, s = below[-1]
        return s * tokens / n

    def largest(self, seconds: float, most: int) -> int:
        """The most tokens, up to `most`, whose step stays within `seconds`; at least 1."""
        low, high = 1, max(1, most)
        while low < high:
            middle = (low + high + 1) // 2
            cost = self.estimate(middle)
            if cost is not None and cost <= seconds:
                low = middle
            else:
                high = middle - 1
        return low
