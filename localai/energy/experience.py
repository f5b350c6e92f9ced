"""What answers took before, and in which circumstances: amounts of work and joules in, what to expect of the next out.

Joules per unit of work are a weighted median of the last answers: the more alike the circumstances and the newer the
answer, the more it counts, and no single one moves it far. Lengths are a median too, in which an answer that was cut
short only says that it would have been longer. Pure.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from localai.energy.figures import Quality
from localai.energy.shares import Amount, Cost, units

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")

REMEMBERED = 32
"""Answers that count."""
_FADES = 0.85
"""What is left of an answer's weight with each one after it."""
_APART = 3.0
"""How fast weight falls with a difference in circumstances: by a factor of 20 for a core that others take."""
_UNKNOWN = 0.5
"""Difference to answers of which the circumstances are not known."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """`threads` of the engine, answers `beside` this one on it, and cores that `foreign` programs take."""

    threads: int = 0
    beside: int = 0
    foreign: float = 0.0

    def unlike(self, other: Circumstances) -> float:
        """0 for the same; 1 for a thread more, a core that others take, or twice as many sequences in a step."""
        if not (self.threads and other.threads):
            return _UNKNOWN
        same = self.beside == other.beside
        batch = 0.0 if same else abs(math.log2((1 + self.beside) / (1 + other.beside)))
        return abs(self.threads - other.threads) + batch + abs(self.foreign - other.foreign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One answer. `length` is in tokens per choice, 0 where there is none; `whole` says that the model ended it."""

    seen: Circumstances = Circumstances()
    prefill: Amount = Amount()
    decode: Amount = Amount()
    prefill_joules: float | None = None
    decode_joules: float | None = None
    quality: Quality = "none"
    length: int = 0
    whole: bool = True


@dataclass(slots=True)
class Experience:
    """Of one engine; newest last."""

    _past: deque[Past] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @classmethod
    def of(cls, past: Iterable[Past]) -> Experience:
        """With answers from before, oldest first."""
        return cls(deque(past, maxlen=REMEMBERED))

    def note(self, answer: Past) -> None:
        """Take an answer into account."""
        self._past.append(answer)

    def per_unit(self, phase: Phase, now: Circumstances, cost: Cost) -> float | None:
        """Joules per unit of work in a phase, by readings of the newest quality; None where nothing is known."""
        return self._per_unit(phase, self._alike(now), cost)

    def per_units(self, now: Circumstances, cost: Cost) -> tuple[float | None, ...]:
        """The same of each of `PHASES`."""
        alike = self._alike(now)
        return tuple(self._per_unit(phase, alike, cost) for phase in PHASES)

    def _alike(self, now: Circumstances) -> list[float]:
        """Newest first, 1 for an answer in the same circumstances."""
        return [math.exp(-_APART * now.unlike(answer.seen)) for answer in reversed(self._past)]

    def _per_unit(self, phase: Phase, alike: Sequence[float], cost: Cost) -> float | None:
        found: list[tuple[float, float]] = []
        quality: Quality | None = None
        faded = 1.0
        for answer, weight in zip(reversed(self._past), alike, strict=True):
            # Before every answer: a call for each of these would cost as much as all the rest of the meter.
            prefills = phase == "prefill"
            amount = answer.prefill if prefills else answer.decode
            joules = answer.prefill_joules if prefills else answer.decode_joules
            if joules is None or not amount.tokens or (quality is not None and answer.quality != quality):
                continue
            work = units(cost, amount)
            if not work:
                continue
            quality = answer.quality
            found.append((joules / work, faded * weight))
            faded *= _FADES
        return weighted_median(found) if found else None

    @property
    def depth(self) -> float:
        """Thousands of tokens that a token of the last answers looked back on, as a median."""
        known = [past.decode.looked / past.decode.tokens for past in self._past if past.decode.tokens]
        return median(known) if known else 0.0

    def length(self, most: int | None) -> int | None:
        """Tokens to expect of an answer that ends at `most`; None where nothing is known."""
        known = [(answer.length, answer.whole) for answer in self._past if answer.length]
        expected = _median_length(known)
        if expected is None:
            return most if most is not None or not known else max(length for length, _ in known)
        return expected if most is None else min(expected, most)


def weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """Of (value, weight), at least one: the least value that half the weight does not exceed."""
    ordered = sorted(values)
    half, seen = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    return ordered[-1][0]


def _median_length(known: Sequence[tuple[int, bool]]) -> int | None:
    """The median by Kaplan and Meier's estimate; None where most answers were cut short before it."""
    left = 1.0
    for length in sorted({length for length, _ in known}):
        at_risk = [(other, whole) for other, whole in known if other >= length]
        left *= 1 - at_risk.count((length, True)) / len(at_risk)
        if left <= 0.5:
            return length
    return None
