"""Candidates on a device: what fits, what lies on the Pareto front, where layers go, and how a refusal reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.gguf import read_header
from localai.errors import BadRequest, OutOfResources
from localai.fidelity import fidelity
from localai.planner import Asked, Room, Row, Variant, Way, front, plan, prompt_steps, ttft
from localai.roofline import fit
from localai.shapes import resized, shape_of
from localai.step_costs import Step
from tests.engine_runs import STARTER
from tests.test_roofline import SETUP, STEPS, reading, shape

MIB = 2**20
HEADER = read_header(STARTER)
Q4_1 = Variant("Q4_1", shape_of([HEADER]), HEADER)
READINGS = [reading(shape(12, 768, "Q4_0"), step) for step in STEPS]


def variant(quant: str, mib: int) -> Variant:
    return Variant(quant, resized(Q4_1.shape, quant, mib * MIB), HEADER, estimated=True)


VARIANTS = (Q4_1, variant("Q8_0", 145), variant("Q2_K", 60), variant("F16", 270))


def way(kv_type: str = "f16", **changes: object) -> Way:
    return replace(Way("llama.cpp", "llama 1", "", 2, kv_type), **changes)  # type: ignore[arg-type]


WAYS = (way(), way("q8_0"), way("q4_0"), way(threads=4))
PAIRS = [(v, w) for v in VARIANTS for w in WAYS]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(PAIRS), min_size=1, max_size=12, unique_by=id),
    st.integers(600, 3000),
    st.integers(0, 400),
    st.integers(0, 2048),
    st.integers(1, 3000),
)
def test_the_pareto_front(pairs: list[tuple[Variant, Way]], ram: int, vram: int, ctx: int, tokens: int) -> None:
    pairs = [(v, replace(w, offloads=vram > 0)) for v, w in pairs]
    room = Room(ram * MIB, vram * MIB)
    asked = Asked(max(ctx, tokens) if ctx else 0, tokens)
    rows = plan(pairs, room, asked, READINGS)
    best = [row for row in rows if row.front]
    assert best
    assert all(row.fits == (row.ram <= room.ram and row.vram <= room.vram) for row in rows)
    assert all(row.fits for row in best)
    assert all(not better(other, row) for row in best for other in rows if other.fits)
    for row in rows:
        if row.fits and not row.front:
            assert any(better(other, row) for other in best)
        assert row.n_ctx >= tokens
        assert row.ttft.low < row.ttft.value < row.ttft.high


def better(a: Row, b: Row) -> bool:
    ours, theirs = [
        (r.ram + r.vram, -r.decode.value, r.ttft.value, fidelity(r.variant.quant, r.way.mode, r.way.kv_type))
        for r in (a, b)
    ]
    return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))


def test_the_front_of_a_front_is_itself() -> None:
    rows = plan(PAIRS, Room(4096 * MIB), Asked(), READINGS)
    best = [row for row in rows if row.front]
    assert front(best) == best
    assert 1 < len(best) < len(rows)


@pytest.mark.parametrize(
    ("room", "layers", "uses_vram"),
    [
        pytest.param(Room(4096 * MIB), {0}, False, id="no GPU"),
        pytest.param(Room(4096 * MIB, 8192 * MIB), {0, 30}, True, id="all of it fits"),
        pytest.param(Room(4096 * MIB, 240 * MIB), {0, 18, 30}, True, id="a part of it fits"),
        pytest.param(Room(4096 * MIB, 4096 * MIB, shared=True), {0, 30}, False, id="one memory for both"),
    ],
)
def test_layers_go_where_a_gpu_is(room: Room, layers: set[int], uses_vram: bool) -> None:
    rows = plan([(Q4_1, way(offloads=room.vram > 0))], room, Asked(2048), READINGS)
    assert {row.gpu_layers for row in rows} == layers
    assert any(row.vram for row in rows) is uses_vram
    by_layers = {row.gpu_layers: row for row in rows}
    assert by_layers[max(layers)].fits is (18 not in layers)
    if 18 in layers:
        assert by_layers[18].fits
        assert by_layers[18].ram < by_layers[0].ram
        assert "CPU" not in by_layers[18].decode.basis
        assert not by_layers[18].decode.measured


@pytest.mark.parametrize(
    ("room", "asked", "message", "hint"),
    [
        pytest.param(Room(50 * MIB), Asked(), "nothing fits into 50 MiB of RAM", "(--ram)", id="nothing at all"),
        pytest.param(Room(400 * MIB), Asked(32768), "context of 32768", "fits with --ctx", id="a shorter context"),
    ],
)
def test_a_refusal_tells_what_would_fit(room: Room, asked: Asked, message: str, hint: str) -> None:
    with pytest.raises(OutOfResources) as caught:
        plan(PAIRS, room, asked, READINGS)
    assert message in caught.value.message
    assert "Q2_K on llama.cpp with q4_0 KV" in caught.value.message
    assert hint in caught.value.hint


def test_the_context_of_a_refusal_really_fits() -> None:
    room = Room(400 * MIB)
    with pytest.raises(OutOfResources) as caught:
        plan(PAIRS, room, Asked(32768), READINGS)
    n_ctx = int(caught.value.hint.partition("--ctx ")[2].partition(",")[0])
    rows = plan(PAIRS, room, Asked(n_ctx), READINGS)
    assert any(row.fits for row in rows)
    with pytest.raises(OutOfResources):
        plan(PAIRS, room, Asked(n_ctx + 1024), READINGS)


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    with pytest.raises(BadRequest, match="2000 tokens does not fit a context of 1000"):
        plan(PAIRS, Room(4096 * MIB), Asked(1000, 2000), READINGS)


def test_the_context_shrinks_until_it_fits_unless_asked_for() -> None:
    one = [(Q4_1, way())]
    served = [plan(one, Room(mib * MIB), Asked(), READINGS)[0].n_ctx for mib in (4096, 410, 320)]
    assert served == [8192, 4096, 2048]


@given(st.integers(1, 4000))
def test_a_prompt_is_cut_as_the_batcher_cuts_it(tokens: int) -> None:
    steps = prompt_steps(tokens)
    assert sum(step.tokens for step in steps) == tokens
    assert [step.depth for step in steps] == list(range(0, tokens, 512))
    assert max(step.tokens for step in steps) <= 512


def test_time_to_first_token_is_the_sum_of_its_steps() -> None:
    model = fit(READINGS, SETUP)
    alone = [model.seconds(Q4_1.shape, [step]).value for step in (Step(512, 0), Step(188, 512))]
    assert ttft(model, Q4_1.shape, 700).value == pytest.approx(sum(alone))


def test_the_order_of_fidelity() -> None:
    ladder = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q2_K", "SOMETHING"]
    ranks = [fidelity(quant, "", "f16") for quant in ladder]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ladder)
    assert fidelity("Q4_0", "", "f16") < fidelity("Q4_0", "", "q8_0") < fidelity("Q4_0", "fast", "f16")
    assert fidelity("UD-Q4_K_XL", "", "f16")[0] == fidelity("Q4_K_M", "", "f16")[0]
