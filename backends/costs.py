"""What a step of n tokens at some depth costs on this device, learned from the steps that ran."""

from __future__ import annotations

from collections.abc import Sequence

_WEIGHT = 0.5
"""Share of the newest reading in the running mean: follows a neighbour or a growing context within a few steps."""
_OUTLIER = 3.0
"""A reading counts as at most this many times the mean: one step that lost its core says little of the next."""
_FORGET = 0.998
"""Share of a size's cost that is kept per prefill reading of another size: what was dear once is tried again later."""
_DRIFT = 1.002
"""Growth per reading of the best cost seen, so that a deeper context does not look like a neighbour for long."""


_Means = dict[int, tuple[float, float]]
"""Mean tokens and seconds by the power of two that the tokens fall into."""


class StepCosts:
    """Seconds per step as a function of its token count and depth, for one thread setting.

    Depth counts the tokens that a step's prompt tokens attend to, 0 where it carries none. Readings are kept per power
    of two of both, and joined by straight lines along the tokens: a step's cost is close to affine in its tokens on a
    CPU and flat on a GPU, and both are straight between neighbours.
    """

    def __init__(self) -> None:
        self._means: dict[int, _Means] = {}

    def copy(self) -> StepCosts:
        """The same readings, to be changed apart."""
        made = StepCosts()
        made._means = {depth: dict(means) for depth, means in self._means.items()}
        return made

    def add(self, tokens: int, seconds: float, depth: int = 0) -> None:
        """Note that a step of `tokens` at `depth` took `seconds`."""
        bucket = tokens.bit_length()
        means = self._means.setdefault(_layer(depth), {})
        old = means.get(bucket)
        n, s = old or (float(tokens), seconds)
        means[bucket] = (n + _WEIGHT * (tokens - n), s + _WEIGHT * (min(seconds, _OUTLIER * s) - s))
        for other in means if depth else ():
            n, s = means[other]
            if other < bucket:
                s = min(s, means[bucket][1])
            means[other] = (n, s if other == bucket else _FORGET * s)

    def add_best(self, tokens: int, seconds: float, depth: int = 0) -> None:
        """Note `seconds` as the cost of a step if nothing seen so far promises less; what is known ages a little."""
        promised = self.credible(tokens, depth)
        best = seconds if promised is None else min(seconds, _DRIFT * promised)
        self._means.setdefault(_layer(depth), {})[tokens.bit_length()] = (float(tokens), best)

    def credible(self, tokens: int, depth: int) -> float | None:
        """The least seconds that a step can be held to: as `estimate`, but twice as long for each doubling of the depth
        beyond what was read, since attention costs as much as it reads."""
        promised = self.estimate(tokens, depth)
        read = [at for at, means in self._means.items() if at <= _layer(depth) and tokens.bit_length() in means]
        if promised is None or not read:
            return promised
        return promised * 2.0 ** (max(1, _layer(depth)) - max(1, *read))

    def _known(self, depth: int) -> _Means:
        """The readings at this depth; for sizes not read here yet, those nearest above it in the prompt."""
        known: _Means = {}
        for layer in sorted(self._means):
            if layer <= _layer(depth) or not known:
                own = self._means[layer]
                # A smaller step, read elsewhere, is not dearer than a larger one here.
                borrowed = {b: (n, min([s, *(own[o][1] for o in own if o > b)])) for b, (n, s) in known.items()}
                known = borrowed | own
        return known

    def _points(self, depth: int) -> list[tuple[float, float]]:
        """Tokens and seconds, ascending in both."""
        points: list[tuple[float, float]] = []
        for n, s in sorted(self._known(depth).values()):
            points.append((n, max(s, points[-1][1] if points else 0.0)))
        return points

    def estimate(self, tokens: int, depth: int = 0) -> float | None:
        """Expected seconds of a step of `tokens`, never less than of a smaller one; None before the first reading."""
        points = self._points(depth)
        return _along(points, tokens) if points else None

    def estimates(self, sizes: Sequence[int]) -> list[float]:
        """As `estimate` at depth 0, for several sizes at once; after the first reading."""
        points = self._points(0)
        return [_along(points, tokens) for tokens in sizes]

    @property
    def known(self) -> bool:
        """Whether any step was read."""
        return bool(self._means)

    def measured(self, tokens: int) -> bool:
        """Whether a step of about so many tokens was ever read at depth 0."""
        return tokens.bit_length() in self._means.get(0, {})

    def largest(self, seconds: float, most: int, depth: int = 0) -> int:
        """The most tokens, up to `most`, whose step at `depth` stays within `seconds`; at least 1."""
        points = self._points(depth)
        low, high = 1, max(1, most) if points else 1
        if points and _along(points, high) <= seconds:
            return high
        while low < high:
            middle = (low + high + 1) // 2
            if _along(points, middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


def _along(points: list[tuple[float, float]], tokens: int) -> float:
    """Seconds at `tokens` on the lines that join `points`; in proportion beyond the last."""
    below = [p for p in points if p[0] <= tokens]
    above = [p for p in points if p[0] > tokens]
    if below and above:
        (n0, s0), (n1, s1) = below[-1], above[0]
        return s0 + (s1 - s0) * (tokens - n0) / (n1 - n0)
    if above:
        return above[0][1]
    n, s = below[-1]
    return s * tokens / n


def _layer(depth: int) -> int:
    """Depths that are alike: none, then below 512 tokens, where attention costs little, then powers of two."""
    return 1 + (depth // 512).bit_length() if depth else 0
