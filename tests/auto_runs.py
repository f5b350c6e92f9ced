"""Finished runs of the benchmark with a known truth, as model `auto` finds them in a home."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from localai.bench import journal
from localai.bench.configurations import Configuration
from localai.bench.rows import End
from localai.bench.suites import generated
from tests.bench_reports import block, configuration, head, row

Truth = Mapping[str, tuple[Mapping[str, int], float]]
"""By model: right answers of 40 by category, and joules per token."""
ASKED = 40
_SUITE = generated("quick", 1)


def finished(
    home: Path,
    truth: Truth,
    *,
    started: float = 1_700_000_000.0,
    quality: str = "modelled",
    digests: Mapping[str, str] | None = None,
    backend: str = "onnx",
) -> Path:
    """A run in which each model, of 40 questions of a category, has answered as many as `truth` says.

    A model's digest is its first letter 64 times, unless `digests` has it; a dearer one is larger.
    """
    configs = [
        msgspec.structs.replace(
            configuration(name, size_bytes=int(1e6 * joules), digest=(digests or {}).get(name, name[0] * 64)),
            backend=backend,
        )
        for name, (_, joules) in truth.items()
    ]
    book = journal.begin(home, msgspec.structs.replace(head(_SUITE, configs, 1), started=started))
    for config, (right, joules) in zip(configs, truth.values(), strict=True):
        _rows(book, config, right, joules, quality)
    book.write(End(finished=started + 1))
    book.close()
    return book.path


def _rows(book: journal.Journal, config: Configuration, right: Mapping[str, int], joules: float, quality: str) -> None:
    for category, count in right.items():
        for number in range(ASKED):
            figures = {"prefill_joules": 10 * joules / 4, "decode_joules": 4 * joules, "joules": 6.5 * joules}
            book.write(
                row(
                    config.key,
                    f"{category}-{number}",
                    category=category,
                    correct=number < count,
                    prompt_tokens=10,
                    completion_tokens=5,
                    quality=quality,
                    **figures,
                )
            )
    book.write(block(config.key, 0))
