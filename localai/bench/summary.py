"""What a run says: journal entries in, results per configuration, pairs and the oracle out. Pure but for numpy.

Correct answers per joule come first. Figures of different quality are never put into one ranking.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import msgspec
import numpy as np

from localai.bench.rows import Block, Row
from localai.bench.stats import Estimate, bootstrap, mean_difference, paired_ratio, ratio, wilson

ENOUGH = 20
"""Questions from which on an interval of resampled ones says something about others."""
_THREADS = re.compile(r" t\d+$")
_WORST = ("measured", "measured_partial", "modelled", "none")


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """One category of one configuration; `joules` are per question, None where unknown."""

    name: str
    questions: int
    accuracy: Estimate
    joules: float | None
    seconds: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration. `ipj` is accuracy by mean joules of a question, which is correct answers per joule;
    `per_kj` the same per kilojoule; `ipw` accuracy by mean watts. All joules are marginal, in `joules` per question.

    `coverage` is the share of questions whose joules are known; ratios are over those alone. `idle_joules` is the mean
    share of being idle. `rank` is by `ipj` among figures of the same `quality`, None where there is no figure.
    """

    config: str
    questions: int
    failed: int
    cut: int
    accuracy: Estimate
    accuracy_by_length: float | None
    quality: str
    scope: tuple[str, ...]
    coverage: float
    why_missing: str
    ipj: Estimate | None
    per_kj: Estimate | None
    ipw: Estimate | None
    joules: Estimate | None
    idle_joules: float | None
    joules_per_token: Estimate | None
    joules_per_correct: Estimate | None
    prediction_error: float | None
    seconds: float
    ttft_ms: float | None
    decode_tps: float | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    threads: int | None
    peak_bytes: int | None
    foreign_cores: float | None
    steady: bool
    categories: tuple[Category, ...]
    rank: int | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two configurations on the questions that both answered: paired differences with 95 % intervals.

    `ipj_ratio` is None where their qualities differ, or a figure is missing. `separate` tells that the ratio's interval
    leaves out 1, of enough questions, and that other programs did not give one of them fewer threads than the other.
    """

    a: str
    b: str
    questions: int
    accuracy_gain: Estimate
    ipj_ratio: Estimate | None
    separate: bool


class Oracle(msgspec.Struct, frozen=True, kw_only=True):
    """If each question went to the cheapest configuration that answers it: how many, at which mean joules.

    `best` is the most accurate single configuration. Joules are None where their qualities differ.
    """

    accuracy: Estimate
    joules: float | None
    best: str
    best_accuracy: float
    best_joules: float | None


def results(rows: Sequence[Row], blocks: Sequence[Block]) -> tuple[Result, ...]:
    """One Result per configuration, best first within each quality."""
    found = []
    for config in dict.fromkeys(row.config for row in rows):
        own = [row for row in rows if row.config == config]
        found.append(_result(config, own, [block for block in blocks if block.config == config]))
    ranked: list[Result] = []
    for quality in _WORST:
        group = [result for result in found if result.quality == quality]
        group.sort(key=lambda result: -(result.ipj.value if result.ipj else -1.0))
        ranked += [msgspec.structs.replace(r, rank=n if r.ipj else None) for n, r in enumerate(group, 1)]
    return tuple(ranked)


def _result(config: str, rows: Sequence[Row], blocks: Sequence[Block]) -> Result:
    known = [row for row in rows if row.joules is not None]
    quality = max((row.quality for row in known), key=_WORST.index, default="none")
    table = _table(known)
    pick = (lambda *columns: bootstrap(table[:, columns], ratio)) if known and table[:, 1].sum() > 0 else None
    by_length = [row.likelihood_by_length for row in rows if row.likelihood_by_length is not None]
    ipj = pick(0, 1) if pick else None
    right = bool(known) and table[:, 0].sum() > 0
    errors = [abs(r.predicted_joules - r.joules) / r.joules for r in known if r.predicted_joules and r.joules]
    return Result(
        config=config,
        questions=len(rows),
        failed=sum(bool(row.error) for row in rows),
        cut=sum(row.cut for row in rows),
        accuracy=wilson(sum(row.correct for row in rows), len(rows)),
        accuracy_by_length=statistics.fmean(by_length) if by_length else None,
        quality=quality,
        scope=tuple(sorted({scope for row in known for scope in row.scope})),
        coverage=len(known) / len(rows),
        why_missing=next((row.reason for row in rows if row.reason), ""),
        ipj=ipj,
        per_kj=_times(ipj, 1000.0),
        # Accuracy by watts: (right / questions) / (joules / seconds).
        ipw=bootstrap(table[:, (0, 2, 3, 1)], _ipw) if pick else None,
        joules=pick(1, 3) if pick else None,
        idle_joules=_mean([row.idle_joules for row in rows]),
        joules_per_token=_per_token(known),
        joules_per_correct=pick(1, 0) if pick and right else None,
        prediction_error=statistics.median(errors) if errors else None,
        seconds=statistics.fmean(row.seconds for row in rows),
        ttft_ms=_median([row.ttft_ms for row in rows]),
        decode_tps=_median([row.decode_tps for row in rows]),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        threads=max((b.threads for b in blocks if b.threads), default=None),
        peak_bytes=max((b.peak_bytes for b in blocks if b.peak_bytes), default=None),
        foreign_cores=_mean([block.foreign_cores for block in blocks]),
        steady=all(block.steady for block in blocks),
        categories=_categories(rows),
    )


def _table(rows: Sequence[Row]) -> Any:
    """Shape (questions, 4): right, joules, seconds, 1."""
    figures = [(row.correct, row.joules, row.seconds, 1.0) for row in rows]
    return np.asarray(figures, dtype=np.float64).reshape(-1, 4)


def _per_token(rows: Sequence[Row]) -> Estimate | None:
    """Joules of decoding by token of the answer."""
    told = [(r.decode_joules, float(r.completion_tokens)) for r in rows if r.decode_joules and r.completion_tokens]
    return bootstrap(np.asarray(told, dtype=np.float64), ratio) if told else None


def _ipw(columns: Any) -> Any:
    return columns[..., 0] * columns[..., 1] / (columns[..., 2] * columns[..., 3])


def _categories(rows: Sequence[Row]) -> tuple[Category, ...]:
    found = []
    for name in dict.fromkeys(row.category for row in rows):
        own = [row for row in rows if row.category == name]
        found.append(
            Category(
                name=name,
                questions=len(own),
                accuracy=wilson(sum(row.correct for row in own), len(own)),
                joules=_mean([row.joules for row in own]),
                seconds=statistics.fmean(row.seconds for row in own),
            )
        )
    return tuple(found)


def pairs(rows: Sequence[Row], found: Sequence[Result]) -> tuple[Pair, ...]:
    """Every two configurations, in the order of `found`."""
    by_config: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_config.setdefault(row.config, {})[row.item] = row
    return tuple(_pair(a, b, by_config[a.config], by_config[b.config]) for a, b in combinations(found, 2))


def _pair(a: Result, b: Result, rows_a: dict[str, Row], rows_b: dict[str, Row]) -> Pair:
    shared = [(rows_a[item], rows_b[item]) for item in rows_a if item in rows_b]
    gains = np.asarray([(x.correct, y.correct, 1.0) for x, y in shared], dtype=np.float64).reshape(-1, 3)
    known = [(x, y) for x, y in shared if x.joules is not None and y.joules is not None]
    gain = bootstrap(gains, mean_difference) if shared else Estimate(0.0)
    both = None
    if a.quality == b.quality != "none" and a.scope == b.scope:
        table = np.asarray([(x.correct, x.joules, y.correct, y.joules) for x, y in known], dtype=np.float64)
        if len(known) and table.sum(axis=0).all():
            both = bootstrap(table, paired_ratio)
    apart = both is not None and both.low is not None and both.high is not None and not both.low <= 1.0 <= both.high
    apart = apart and len(known) >= ENOUGH and not uneven(a, b)
    return Pair(a=a.config, b=b.config, questions=len(shared), accuracy_gain=gain, ipj_ratio=both, separate=apart)


def uneven(a: Result, b: Result) -> bool:
    """Whether engines that were to run on the same number of threads did not: the machine had not the same to give."""
    asked_a, asked_b = (_THREADS.search(result.config) for result in (a, b))
    return (asked_a and asked_a[0]) == (asked_b and asked_b[0]) and a.threads != b.threads


def oracle(rows: Sequence[Row], found: Sequence[Result]) -> Oracle | None:
    """None where there are fewer than two configurations, or no question that all of them were asked."""
    asked: dict[str, list[Row]] = {}
    for row in rows:
        asked.setdefault(row.item, []).append(row)
    full = [group for group in asked.values() if len(group) == len(found)]
    if len(found) < 2 or not full:
        return None
    best = max(found, key=lambda result: (result.accuracy.value, -(result.joules.value if result.joules else 0.0)))
    same = len({(result.quality, result.scope) for result in found}) == 1
    cheapest = [
        min((r for r in group if r.correct), key=_joules, default=min(group, key=_joules)).joules for group in full
    ]
    return Oracle(
        accuracy=wilson(sum(any(row.correct for row in group) for group in full), len(full)),
        joules=_mean(cheapest) if same else None,
        best=best.config,
        best_accuracy=best.accuracy.value,
        best_joules=best.joules.value if best.joules and same else None,
    )


def _joules(row: Row) -> float:
    return float("inf") if row.joules is None else row.joules


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _times(estimate: Estimate | None, factor: float) -> Estimate | None:
    if estimate is None:
        return None
    low, high = estimate.low, estimate.high
    return Estimate(
        factor * estimate.value, None if low is None else factor * low, None if high is None else factor * high
    )
