"""What one model on one engine can do and what that takes: rows of a benchmark enter, Abilities leave. Pure.

Accuracy is a Beta posterior per category; joules are per token, of one quality and scope.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from localai.bench.configurations import Configuration
from localai.bench.rows import Row
from localai.forecast import Workload


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of those asked; `mean` and `variance` are of Beta(1 + right, 1 + wrong)."""

    right: int = 0
    asked: int = 0

    @property
    def mean(self) -> float:
        return (1 + self.right) / (2 + self.asked)

    @property
    def variance(self) -> float:
        return self.mean * (1 - self.mean) / (3 + self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A model on a backend. `prefill` and `decode` are joules per token, and so are comparable within one `quality`."""

    model: str
    backend: str
    digest: str
    size_bytes: int
    scores: Mapping[str, Score]
    prefill: float
    decode: float
    quality: str
    scope: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} on {self.backend}"

    @property
    def pooled(self) -> Score:
        """Over all categories."""
        return Score(sum(s.right for s in self.scores.values()), sum(s.asked for s in self.scores.values()))

    def expected(self, mix: Mapping[str, float]) -> tuple[float, float]:
        """Accuracy and its standard deviation for a query that is of these categories with these probabilities.

        What `mix` lacks to 1, and categories that were not asked, count as any question.
        """
        known = {name: share for name, share in mix.items() if name in self.scores}
        rest = max(0.0, 1.0 - sum(known.values()))
        parts = [(share, self.scores[name]) for name, share in known.items()]
        parts += [(rest, self.pooled)] if rest > 0 else []
        mean = sum(share * score.mean for share, score in parts)
        return mean, math.sqrt(sum(share * share * score.variance for share, score in parts))

    def joules(self, work: Workload) -> float:
        """Of a request on the loaded engine; `work.cached` tokens of its prompt lie in the cache."""
        new = max(1, work.prompt - work.cached)
        return work.prompts * (new * self.prefill + work.choices * work.answer * self.decode)


def ability(config: Configuration, rows: Iterable[Row]) -> Ability | None:
    """Of one configuration's rows, all of one run; None where they do not tell the joules of both phases."""
    rows = list(rows)
    scores: dict[str, Score] = {}
    for row in rows:
        old = scores.get(row.category, Score())
        scores[row.category] = Score(old.right + row.correct, old.asked + 1)
    told = [row for row in rows if row.prefill_joules is not None and row.decode_joules is not None]
    read = sum(row.prompt_tokens - row.cached_tokens for row in told)
    written = [row for row in told if row.decode_joules]
    # The first token of an answer comes out of prefill.
    made = sum(max(0, row.completion_tokens - 1) for row in written)
    if read <= 0 or made <= 0:
        return None
    worst = max((row.quality for row in told), key=("measured", "measured_partial", "modelled", "none").index)
    return Ability(
        model=config.model,
        backend=config.backend,
        digest=config.digest,
        size_bytes=config.size_bytes,
        scores=scores,
        prefill=sum(row.prefill_joules or 0.0 for row in told) / read,
        decode=sum(row.decode_joules or 0.0 for row in written) / made,
        quality=worst,
        scope=tuple(sorted({scope for row in told for scope in row.scope})),
    )
