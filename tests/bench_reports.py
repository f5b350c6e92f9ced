"""Benchmark reports made without a daemon: journals with rows of a known truth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from localai.bench import journal, report
from localai.bench.configurations import Configuration
from localai.bench.plan import digest
from localai.bench.rows import Block, End, Head, Row
from localai.bench.suites import generated
from localai.bench.tasks import Suite

Truth = dict[str, tuple[float, float]]
"""By configuration: the chance of being right, and mean joules."""
PLANTED = "Zanzibar-4711"


def configuration(name: str, **more: Any) -> Configuration:
    given = {"quant": "Q4_1", "digest": "ab" * 32, "architecture": "llama", "parameters": 135, "size_bytes": 1}
    return Configuration(model=name, backend="onnx", **{**given, **more})


def head(suite: Suite, configs: Sequence[Configuration], rounds: int = 2) -> Head:
    described = [msgspec.to_builtins(config) for config in configs]
    return Head(
        format=journal.FORMAT,
        plan=digest(suite.digest, described, rounds),
        started=1_700_000_000.0,
        suite={
            "name": suite.name,
            "source": suite.source,
            "seed": suite.seed,
            "digest": suite.digest,
            "questions": len(suite.items),
            "notes": [],
        },
        configurations=described,
        rounds=rounds,
        surroundings={
            "device": {"cpu": "AMD EPYC", "cores": 2, "memory_bytes": 2**34, "virtual": True, "fingerprint": "f" * 16},
            "versions": {"localai": "0.1.0"},
            "sensors": [],
            "no_sensor": [],
        },
    )


def row(config: str, item: str, **more: Any) -> Row:
    given: dict[str, Any] = {"category": "code", "round": 0, "correct": True, "seconds": 1.0, "quality": "modelled"}
    return Row(config=config, item=item, **{**given, "joules": 1.0, **more})


def block(config: str, number: int) -> Block:
    return Block(config=config, round=number, seconds=1.0, warmup=3, steady=True)


def made(home: Path, truth: Truth, *, seed: int = 0, suite: Suite | None = None, **more: Any) -> report.Report:
    """The report of a finished run over `suite`, in which the configurations are as good as `truth` says."""
    asked = suite or generated("quick", 1)
    configs = [configuration(name, **more) for name in truth]
    book = journal.begin(home, head(asked, configs, 1))
    rng = random.Random(seed)
    for config, (chance, joules) in zip(configs, truth.values(), strict=True):
        for item in asked.items:
            figures = {"correct": rng.random() < chance, "joules": joules * rng.uniform(0.8, 1.2)}
            book.write(row(config.key, item.id, category=item.category, completion_tokens=4, **figures))
        book.write(block(config.key, 0))
    book.write(End(finished=1.0))
    book.close()
    return report.build(book)
