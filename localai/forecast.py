"""How long an engine takes for a request, from what was measured of it with this very model. Pure.

Readings of one backend, mode and thread count enter; seconds leave. For models that were not measured see `roofline`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from localai.readings import Phase, Reading

_NEAR = 192
"""Tokens of depth below which a step counts as one at the beginning of a context."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a request takes: tokens of its prompt, those of them that lie in the cache, and of the answer.

    `prompts` different prompts run together, each answered `choices` times; `others` sequences run beside them.
    """

    prompt: int
    answer: int
    cached: int = 0
    prompts: int = 1
    choices: int = 1
    others: int = 0
    embeds: bool = False

    @property
    def sequences(self) -> int:
        return self.prompts * self.choices + self.others


@dataclass(frozen=True, slots=True)
class _Point:
    """A typical step: new tokens per sequence, depth, sequences, wall and CPU seconds."""

    tokens: float
    depth: float
    sequences: int
    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """What steps cost on one engine; make it with `of`.

    `near` are prefill steps at no depth, ascending in tokens, as (tokens, seconds without attention to earlier ones);
    `slope` seconds per token and token of depth. `first` and `further` are seconds of a decode step for one sequence
    at no depth, and for each one more; `look` seconds per sequence and token of depth. `busy` is CPU per wall second.
    """

    near: tuple[tuple[float, float], ...]
    slope: float
    first: float
    further: float
    look: float
    load_s: float
    embed: float | None
    busy: float

    @classmethod
    def of(cls, readings: Iterable[Reading]) -> Speeds | None:
        """From the readings of one backend, mode and thread count; None where prefill or decode is not among them."""
        points = {phase: _points(readings, phase) for phase in ("load", "prefill", "decode", "embed")}
        prefill, decode = points["prefill"], points["decode"]
        alone = [point for point in decode if point.sequences == 1]
        if not prefill or not alone:
            return None
        look = _slope([(p.depth, p.seconds) for p in alone])
        first = max(0.0, median(p.seconds - look * p.depth for p in alone)) or alone[0].seconds
        many = [p for p in decode if p.sequences > 1]
        further = [(p.seconds - first - look * p.depth * p.sequences) / (p.sequences - 1) for p in many]
        one = _Point(1, 0, 1, first, 0.0)
        near, slope = _prefill([one, *prefill])
        embeds = [p.seconds / p.tokens for p in points["embed"] if p.tokens]
        loads = [p.seconds for p in points["load"]]
        work = [*prefill, *decode]
        return cls(
            near,
            slope,
            first,
            max(0.0, median(further)) if further else first,
            look,
            median(loads) if loads else 0.0,
            median(embeds) if embeds else None,
            sum(p.cpu_s for p in work) / sum(p.seconds for p in work),
        )

    def completed(self, other: Speeds) -> Speeds:
        """These, and what only `other` thread count was measured for, in proportion."""
        if other is self:
            return self
        ratio, prefill = self.first / other.first, self.prefill(256) / other.prefill(256)
        return replace(
            self,
            slope=self.slope or other.slope * prefill,
            further=self.further if self.further < self.first else other.further * ratio,
            look=self.look or other.look * ratio,
            embed=self.embed or other.embed,
        )

    def prefill(self, tokens: int, depth: int = 0) -> float:
        """Seconds to take in `tokens` behind `depth` others."""
        most, cost = self.near[-1]
        whole, rest = divmod(tokens, most)
        return whole * cost + self._base(rest) + self.slope * tokens * (depth + tokens / 2)

    def decode(self, tokens: int, depth: int = 0, sequences: int = 1) -> float:
        """Seconds for `tokens` steps of `sequences` that begin at `depth`."""
        step = self.first + self.further * (sequences - 1)
        return tokens * (step + self.look * sequences * (depth + tokens / 2))

    def seconds(self, work: Workload) -> float | None:
        """The whole request on a loaded engine; None for embeddings where they were not measured."""
        new = max(1, work.prompt - work.cached)
        if work.embeds:
            return None if self.embed is None else self.embed * work.prompt * work.prompts
        before = work.prompts * self.prefill(new, work.cached)
        return before + self.decode(work.answer, work.prompt, work.sequences)

    def rates(self) -> tuple[float, float]:
        """Token/s of prefill over 512 tokens and of decode for one sequence, both at no depth."""
        return 512 / self.prefill(512), 1 / self.first

    def _base(self, tokens: float) -> float:
        """Seconds of one step of at most the largest size measured."""
        if tokens <= 0:
            return 0.0
        before = (0.0, 0.0)
        for point in self.near:
            if tokens <= point[0]:
                share = (tokens - before[0]) / (point[0] - before[0])
                # A step of few tokens costs as much as one of one token at least.
                return max(self.near[0][1], before[1] + share * (point[1] - before[1]))
            before = point
        return before[1]


def fastest_of(readings: Sequence[Reading]) -> tuple[int, Speeds] | None:
    """Thread count and speeds of the one that decodes fastest, of the readings of one backend and mode."""
    found = []
    for threads in sorted({reading.threads for reading in readings}, reverse=True):
        own = [reading for reading in readings if reading.threads == threads]
        speeds = Speeds.of(own)
        if speeds is not None:
            found.append((len({(r.phase, r.sequences, r.depth >= _NEAR) for r in own}), threads, speeds))
    if not found:
        return None
    _, threads, best = min(found, key=lambda item: item[2].first)
    return threads, best.completed(max(found, key=lambda item: item[0])[2])


def _points(readings: Iterable[Reading], phase: Phase) -> list[_Point]:
    """The median of each point over the passes; points whose sizes differ little are one."""
    groups: dict[tuple[int, int, int], list[Reading]] = {}
    for r in readings:
        if r.phase == phase:
            groups.setdefault((r.tokens.bit_length(), (r.depth + 64).bit_length(), r.sequences), []).append(r)
    return [
        _Point(
            median(r.tokens for r in group),
            median(r.depth for r in group),
            sequences,
            median(r.seconds for r in group),
            median(r.cpu_s for r in group),
        )
        for (_, _, sequences), group in groups.items()
    ]


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the line through the first and last of `pairs`, never negative; 0 where there is but one."""
    (x0, y0), (x1, y1) = min(pairs), max(pairs)
    return max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0


def _prefill(points: Sequence[_Point]) -> tuple[tuple[tuple[float, float], ...], float]:
    """Steps at no depth without their attention, and seconds per token and token of depth."""
    near = sorted((p for p in points if p.depth < _NEAR), key=lambda p: p.tokens) or sorted(
        points, key=lambda p: p.depth
    )
    deep = [p for p in points if p.depth >= _NEAR]
    slope = 0.0
    if deep:
        last = max(deep, key=lambda p: p.depth)
        like = min(near, key=lambda p: abs(p.tokens - last.tokens))
        apart = (last.depth + last.tokens / 2) - (like.depth + like.tokens / 2)
        slope = max(0.0, (last.seconds / last.tokens - like.seconds / like.tokens) / apart) if apart > 0 else 0.0
    bases: list[tuple[float, float]] = []
    for p in near:
        base = max(0.5 * p.seconds, p.seconds - slope * p.tokens * (p.depth + p.tokens / 2))
        # More tokens never cost less; a size that comes twice counts once.
        if not bases or p.tokens > bases[-1][0]:
            bases.append((p.tokens, max(base, bases[-1][1] if bases else 0.0)))
    return tuple(bases), slope
