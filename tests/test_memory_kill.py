"""kill -9 while writing and erasing: a short run of the soak test."""

from __future__ import annotations

from pathlib import Path

from tests.soak.memory_kills import kills


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    assert kills(tmp_path / "memory.db", 4, seed=3, longest=0.5) > 20
