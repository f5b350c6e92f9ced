"""Memory planned from a header: against what the engine measures, and shrinking until it fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.gguf import read_header
from localai.budget import LEAST_CTX, MOST_CTX, charge, served_context
from localai.errors import OutOfResources
from tests.engine_runs import STARTER, engine, order
from tests.gguf_files import llama_with

MIB = 2**20


async def test_the_estimate_against_the_engine(tmp_path: Path) -> None:
    header = read_header(STARTER)
    async with engine(order(STARTER, "llama.cpp", n_ctx=2048), tmp_path) as handle:
        info, rss = handle.info, handle.rss
    need = charge(header, 2048, "f16")
    assert need.weights == info.weight_bytes
    assert need.kv == info.kv_bytes == 2048 * 23_040
    assert info.compute_bytes < need.compute
    assert rss < need.total


@pytest.mark.parametrize(("kv_type", "per_token"), [("f16", 23_040), ("q8_0", 12_240), ("q4_0", 6_480)])
def test_kv_bytes_by_type(kv_type: str, per_token: int) -> None:
    assert charge(read_header(STARTER), 1000, kv_type).kv == 1000 * per_token


@pytest.mark.parametrize(
    ("trained", "asked", "free_mib", "served"),
    [
        pytest.param(512, 0, 10_000, 512, id="what it was trained for"),
        pytest.param(131_072, 0, 100_000, MOST_CTX, id="no more than most need"),
        pytest.param(131_072, 70_000, 100_000, 70_000, id="more where asked for"),
        pytest.param(131_072, 0, 210, 16_384, id="halved until it fits"),
    ],
)
def test_the_served_context(tmp_path: Path, trained: int, asked: int, free_mib: int, served: int) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(llama_with(llama__context_length=("uint32", trained)))
    assert served_context(read_header(path), asked, free_mib * MIB, "f16") == served


@pytest.mark.parametrize(
    ("asked", "free_mib", "shown"),
    [
        pytest.param(0, 50, f"context of {LEAST_CTX} tokens", id="not even the least"),
        pytest.param(100_000, 300, "context of 100000 tokens", id="not the asked one"),
        pytest.param(0, -10, "0 MiB are free", id="over the budget already"),
    ],
)
def test_a_refusal_names_both_numbers(asked: int, free_mib: int, shown: str) -> None:
    with pytest.raises(OutOfResources) as caught:
        served_context(read_header(STARTER), asked, free_mib * MIB, "f16")
    assert shown in caught.value.message
    assert "are free" in caught.value.message
    assert caught.value.hint
