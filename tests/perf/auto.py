"""What model `auto` gains: share of the best single choice's accuracy against share of its joules, over `auto_least`.

    python -m tests.perf.auto JOURNAL [JOURNAL ...]     a run of `localai bench` over the starter and its siblings
    python -m tests.perf.auto --recorded                published accuracies of larger models, joules modelled

With journals, the abilities are learned from one half of the questions and tried on the other, over many halvings, with
the joules and verdicts that the run has recorded; the classifier sees the questions alone. The recorded table has no
answers: they are drawn from the published accuracies, with a chance of being right that questions have in common.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from localai.auto.abilities import Ability, Score, ability
from localai.auto.classifier import trained
from localai.auto.picking import bids, plan
from localai.bench import journal
from localai.bench.configurations import Configuration
from localai.bench.rows import Head, Row
from localai.bench.suites import generated
from localai.forecast import Workload

LEASTS = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
HALVINGS = 200


@dataclass(frozen=True, slots=True)
class Point:
    """A share of the best single choice's accuracy, and of its joules."""

    least: float
    accuracy: float
    joules: float


def of_runs(paths: Sequence[Path], largest_only: bool) -> dict[str, Any]:
    """Learn on one half of each category, try on the other."""
    found = [_read(path) for path in paths]
    configs = {config.key: config for own, _ in found for config in own}
    rows: dict[str, dict[str, Row]] = {}
    for _, each in found:
        for row in each:
            rows.setdefault(row.config, {})[row.item] = row
    shared = sorted(set.intersection(*(set(own) for own in rows.values())))
    mixes = _mixes(shared, found[0][1])
    kept: dict[float, list[tuple[float, float]]] = {least: [] for least in LEASTS}
    for halving in range(HALVINGS):
        tried = set(_half(shared, random.Random(halving)))
        able = {
            str(made): key
            for key, config in configs.items()
            if (made := ability(config, [r for i, r in rows[key].items() if i not in tried])) is not None
        }
        abilities = [
            made
            for key, config in configs.items()
            if (made := ability(config, [r for i, r in rows[key].items() if i not in tried])) is not None
        ]
        # The single choice is made by the same knowledge: the most accurate on the half that was learned from.
        pool = [a for a in abilities if not largest_only or a.size_bytes == max(b.size_bytes for b in abilities)]
        best = max(pool, key=lambda a: (a.pooled.mean, -a.decode))
        single = [rows[able[str(best)]][item] for item in tried]
        for least in LEASTS:
            chosen = [_tried(item, abilities, mixes[item], least, rows, able) for item in tried]
            kept[least].append((_share(chosen, single, "correct"), _share(chosen, single, "joules")))
    curve = [Point(least, *(statistics.fmean(v[i] for v in values) for i in (0, 1))) for least, values in kept.items()]
    return {
        "questions": len(shared),
        "configurations": sorted(configs),
        "single": "the largest" if largest_only else "the most accurate",
        "curve": [msgspec.to_builtins(point) for point in curve],
    }


def _read(path: Path) -> tuple[list[Configuration], list[Row]]:
    entries = journal.read(path)
    assert isinstance(entries[0], Head)
    configs = [msgspec.convert(each, Configuration) for each in entries[0].configurations]
    return configs, journal.rows_of(entries)


def _mixes(items: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What the classifier says of each question; journals hold none, but the suite makes them again."""
    texts = {item.id: item.prompt for item in generated("quick", 1).items}
    return {item: trained().guess(texts[item]).mix for item in items}


def _half(items: Sequence[str], rng: random.Random) -> list[str]:
    by_category: dict[str, list[str]] = {}
    for item in items:
        by_category.setdefault(item.partition("-")[0], []).append(item)
    return [item for own in by_category.values() for item in rng.sample(own, len(own) // 2)]


def _tried(
    item: str,
    abilities: Sequence[Ability],
    mix: Mapping[str, float],
    least: float,
    rows: Mapping[str, Mapping[str, Row]],
    able: Mapping[str, str],
) -> Row:
    first = rows[able[str(abilities[0])]][item]
    work = Workload(prompt=max(1, first.prompt_tokens), answer=max(1, first.completion_tokens))
    return rows[able[str(plan(bids(abilities, mix, work, {}), least, None).first.ability)]][item]


def _share(chosen: Sequence[Row], single: Sequence[Row], name: str) -> float:
    return sum(getattr(r, name) or 0.0 for r in chosen) / max(1e-9, sum(getattr(r, name) or 0.0 for r in single))


# -- a recorded table of larger models

_SOURCE = "model card of Qwen2-1.5B-Instruct (huggingface.co/Qwen/Qwen2-1.5B-Instruct), section Evaluation"
_RECORDED: dict[str, tuple[float, dict[str, float]]] = {
    "Qwen1.5-0.5B-Chat": (0.46, {"MMLU": 35.0, "HumanEval": 9.1, "GSM8K": 11.3, "C-Eval": 37.2, "IFEval": 14.6}),
    "Qwen2-0.5B-Instruct": (0.49, {"MMLU": 37.9, "HumanEval": 17.1, "GSM8K": 40.1, "C-Eval": 45.2, "IFEval": 20.0}),
    "Qwen1.5-1.8B-Chat": (1.84, {"MMLU": 43.7, "HumanEval": 25.0, "GSM8K": 35.3, "C-Eval": 55.3, "IFEval": 16.8}),
    "Qwen2-1.5B-Instruct": (1.54, {"MMLU": 52.4, "HumanEval": 37.8, "GSM8K": 61.6, "C-Eval": 63.8, "IFEval": 29.0}),
}
"""Parameters in 10^9, embeddings included, and per cent right by task, as published."""
_TOKENS = {"MMLU": (120, 1), "HumanEval": (150, 120), "GSM8K": (700, 120), "C-Eval": (120, 1), "IFEval": (60, 250)}
"""Usual tokens of prompt and answer; prompts of few-shot tasks with their examples."""
_J_PER_GB = 0.3
"""Joules per 10^9 bytes read, of a token that is decoded at 4.5 bits a weight; only ratios count."""


def recorded() -> dict[str, Any]:
    """The curve over the published table: the category is taken as known, each question counts one in five."""
    abilities = [
        Ability(
            model=name,
            backend="modelled",
            digest="",
            size_bytes=int(size * 1e9 * 4.5 / 8),
            scores={task: Score(round(10 * share), 1000) for task, share in scores.items()},
            prefill=0.1 * size * 4.5 / 8 * _J_PER_GB,
            decode=size * 4.5 / 8 * _J_PER_GB,
            quality="modelled",
            scope=(),
        )
        for name, (size, scores) in _RECORDED.items()
    ]
    works = {task: Workload(prompt=prompt, answer=answer) for task, (prompt, answer) in _TOKENS.items()}
    best = max(abilities, key=lambda a: a.pooled.mean)
    single = [(best.expected({task: 1.0})[0], best.joules(work)) for task, work in works.items()]
    curve, choices = [], {}
    for least in LEASTS:
        plans = {task: plan(bids(abilities, {task: 1.0}, work, {}), least, None) for task, work in works.items()}
        accuracy = sum(p.accuracy for p in plans.values()) / sum(a for a, _ in single)
        curve.append(Point(least, accuracy, sum(p.joules for p in plans.values()) / sum(j for _, j in single)))
        choices[str(least)] = {task: p.first.ability.model for task, p in plans.items()}
    return {
        "label": "RECORDED: accuracies as published, joules modelled from bytes of parameters; nothing was run",
        "source": _SOURCE,
        "single": best.model,
        "curve": [msgspec.to_builtins(point) for point in curve],
        "choices": choices,
    }


if __name__ == "__main__":
    told = sys.argv[1:]
    if "--recorded" in told:
        print(json.dumps(recorded(), indent=1))
    else:
        paths = [Path(each) for each in told]
        print(json.dumps([of_runs(paths, largest_only=largest) for largest in (False, True)], indent=1))
