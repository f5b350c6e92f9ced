"""kill -9 while writing and erasing: a short run of the soak test."""

from __future__ import annotations

from pathlib import Path

from tests.soak.memory_kills import kills


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged = 0
    # A busy machine gets less done before it is killed.
    for seed in range(3, 13):
        acknowledged += kills(tmp_path / f"{seed}.db", 4, seed=seed, longest=0.5)
        if acknowledged > 20:
            return
    raise AssertionError(f"{acknowledged} changes were acknowledged in all")
