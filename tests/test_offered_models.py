"""What models that are not here would cost, scaled from a plan of one that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localai.catalog import Catalog
from localai.offered_models import offered, size_of

GIB = 2**30


def plan(*, fits: bool = True, tps: float = 100.0, ram: int = 8 * GIB) -> dict[str, Any]:
    memory = {"weights_bytes": 100_000_000, "kv_bytes": 50_000_000, "compute_bytes": 0}
    row = {"fits": fits, "decode_tps": {"value": tps}, "memory": memory}
    row["energy"] = {"decode_joules_per_token": {"value": 0.1}}
    return {"model": "small", "rows": [row], "device": {"ram_bytes": ram, "vram_bytes": 0}}


def test_a_model_costs_as_much_more_as_its_weights_are_larger(tmp_path: Path) -> None:
    specs = Catalog.load(tmp_path).names
    rows = {row["id"]: row for row in offered([specs["qwen3-4b-instruct"], specs["gpt-oss-20b"]], (), plan())}
    four = rows["qwen3-4b-instruct"]
    ratio = four["bytes"] / 100_000_000
    assert four["estimate"]["decode_tps"] == pytest.approx(100 / ratio, rel=0.01)
    assert four["estimate"]["joules_per_token"] == pytest.approx(0.1 * ratio, rel=0.01)
    assert four["bytes"] < four["estimate"]["ram_bytes"] < 1.5 * four["bytes"]
    # Of many experts a token uses a few: it is larger and yet faster.
    assert rows["gpt-oss-20b"]["estimate"]["decode_tps"] > four["estimate"]["decode_tps"]
    assert (four["estimate"]["fits"], rows["gpt-oss-20b"]["estimate"]["fits"]) == (True, False)


def test_what_is_here_is_not_offered_and_nothing_is_made_up(tmp_path: Path) -> None:
    specs = Catalog.load(tmp_path).specs
    rows = offered(specs, [specs[0].id], None)
    assert specs[0].id not in {row["id"] for row in rows}
    assert {row["estimate"] for row in rows} == {None}
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows)
    assert all(size_of(spec) > 10_000_000 for spec in specs)
    assert offered(specs, (), plan(fits=False))[0]["estimate"] is None
