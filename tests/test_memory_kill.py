"""kill -9 while writing, taking in files and erasing: a short run of the soak tests."""

from __future__ import annotations

from pathlib import Path

from tests.soak.ingest_kills import kills as kills_of_ingest
from tests.soak.memory_kills import kills


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged = 0
    # A busy machine gets less done before it is killed.
    for seed in range(3, 13):
        acknowledged += kills(tmp_path / f"{seed}.db", 4, seed=seed, longest=0.5)
        if acknowledged > 20:
            return
    raise AssertionError(f"{acknowledged} changes were acknowledged in all")


def test_no_file_is_half_in_or_in_twice(tmp_path: Path) -> None:
    changes = 0
    for seed in range(3, 13):
        changes += kills_of_ingest(tmp_path, 4, seed=seed, longest=0.8, raw_every=2).changes
        if changes > 20:
            return
    raise AssertionError(f"{changes} changes were made in all")
