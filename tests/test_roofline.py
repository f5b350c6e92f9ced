"""The fit against readings made from known costs: what it recovers, what it foretells, what it admits not to know."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localai.readings import Phase, Reading, Shape
from localai.roofline import Prediction, Roofline, Setup, fit
from localai.step_costs import Step, family, work

SETUP = Setup("llama.cpp", "llama 1", "", 2, "f16")
COSTS = {
    "step": 1e-4,
    "layer": 4e-5,
    "weights": 1 / 12e9,
    "weights Q4_0": 1.3,
    "weights Q8_0": 0.8,
    "flops": 1 / 80e9,
    "flops Q4_0": 0.7,
    "flops Q8_0": 1.4,
    "few": 1.2,
    "several": 1.2,
    "experts": 1.1,
    "expert": 2e-6,
    "expert flops": 1.8,
    "activations": 0.2e-9,
    "kv": 1 / 10e9,
    "attention": 1 / 10e9,
    "attention, large": 1 / 25e9,
}
STEPS = (Step(1, 16), Step(1, 1024), Step(64, 0), Step(512, 0), Step(512, 1024), Step(1, 64, 4))


def shape(layers: int, width: int, quant: str, experts: int = 0) -> Shape:
    """A transformer with an MLP of three widths, or of `experts` experts a third as wide, an eighth of them used."""
    bits = {"Q4_0": 4.5, "Q8_0": 8.5, "F16": 16.0}[quant]
    attention, inner, head = layers * 3 * width**2, layers * 9 * width**2, 50_000 * width
    used = experts // 8
    all_experts = inner // 3 * experts
    active = inner // 3 * used if experts else inner
    return Shape(
        architecture="llama",
        quant=quant,
        layers=layers,
        width=width,
        weight_bytes=int((attention + active + head) * bits / 8),
        resident_bytes=int((attention + (all_experts or inner) + 2 * head) * bits / 8),
        flops=2 * (attention + active),
        head_flops=2 * head,
        kv_values=layers * width // 2,
        attention_flops=4 * layers * width,
        head_bytes=int(head * bits / 8),
        head_type=quant,
        expert_bytes=int(all_experts * bits / 8),
        expert_flops=2 * active if experts else 0,
        experts=experts,
        experts_used=used,
    )


KNOWN = (shape(12, 768, "Q4_0"), shape(6, 1536, "Q8_0"), shape(24, 640, "Q4_0"), shape(8, 768, "Q4_0", 32))
OTHERS = (shape(20, 1024, "Q4_0"), shape(16, 896, "Q8_0"), shape(10, 2048, "Q4_0"), shape(12, 1024, "Q4_0", 64))


def seconds(model: Shape, step: Step, kv_type: str = "f16") -> float:
    return sum(
        part.amount * math.prod(COSTS.get(name, 1.0) for name in part.factors) for part in work(model, step, kv_type)
    )


def reading(model: Shape, step: Step, factor: float = 1.0, setup: Setup = SETUP) -> Reading:
    phase: Phase = "decode" if step.tokens == 1 else "prefill"
    return Reading(
        backend=setup.backend,
        build=setup.build,
        mode=setup.mode,
        threads=setup.threads,
        kv_type=setup.kv_type,
        shape=model,
        phase=phase,
        tokens=step.tokens,
        depth=step.depth,
        sequences=step.sequences,
        seconds=seconds(model, step) * factor,
        cpu_s=0.0,
        at=0.0,
    )


def readings(noise: list[float]) -> list[Reading]:
    points = [(model, step) for model in KNOWN for step in STEPS]
    return [reading(m, s, math.exp(e)) for (m, s), e in zip(points, noise, strict=True)]


COUNT = len(KNOWN) * len(STEPS)
noises = st.lists(st.floats(-0.05, 0.05), min_size=COUNT, max_size=COUNT)
FITTED = fit(readings([0.0] * COUNT), SETUP)


@settings(max_examples=40, deadline=None)
@given(noises)
def test_other_models_are_foretold_from_noisy_readings(noise: list[float]) -> None:
    fitted = fit(readings(noise), SETUP)
    for model in OTHERS:
        for step in (Step(1, 300), Step(512, 512), Step(200, 0)):
            said, true = fitted.seconds(model, [step]), seconds(model, step)
            assert abs(said.value / true - 1) < 0.2
            assert said.low < said.value < said.high


def test_costs_are_recovered() -> None:
    for name in ("weights", "flops"):
        for quant in ("Q4_0", "Q8_0"):
            found = FITTED.costs[name] + FITTED.costs[f"{name} {quant}"]
            assert math.exp(found) == pytest.approx(COSTS[name] * COSTS[f"{name} {quant}"], rel=0.15)


@settings(max_examples=40, deadline=None)
@given(noises, st.integers(0, COUNT - 1))
def test_one_absurd_reading_changes_little(noise: list[float], place: int) -> None:
    noise[place] += math.log(5)
    fitted = fit(readings(noise), SETUP)
    for model in OTHERS:
        assert abs(fitted.seconds(model, [Step(1, 300)]).value / seconds(model, Step(1, 300)) - 1) < 0.2


@pytest.mark.parametrize("factor", [0.02, 0.2, 5.0, 50.0])
def test_machines_far_from_the_typical_one(factor: float) -> None:
    points = [reading(model, step, factor) for model in KNOWN for step in STEPS]
    fitted = fit(points, SETUP)
    for model in OTHERS:
        for step in (Step(1, 300), Step(512, 512)):
            assert fitted.seconds(model, [step]).value == pytest.approx(factor * seconds(model, step), rel=0.2)


sizes = st.integers(2, 60), st.sampled_from([512, 1024, 2048]), st.sampled_from(["Q4_0", "Q8_0", "F16"])


@given(st.builds(shape, *sizes), st.integers(1, 512), st.integers(0, 8000), st.integers(1, 8000))
def test_depth_and_bytes_never_speed_a_step_up(model: Shape, tokens: int, depth: int, more: int) -> None:
    def value(of: Shape, at: int) -> float:
        return FITTED.seconds(of, [Step(tokens, at)]).value

    assert value(model, depth + more) > value(model, depth)
    heavier = replace(model, weight_bytes=model.weight_bytes + more * 2**20)
    assert value(heavier, depth) > value(model, depth)
    windowed = replace(model, window=512, windowed=0.5)
    assert value(windowed, depth) <= value(model, depth)


@given(st.integers(1, 8), st.integers(0, 4000), st.sampled_from(KNOWN + OTHERS))
def test_batches_cost_more_in_all_and_less_for_each(sequences: int, depth: int, model: Shape) -> None:
    one, many = (FITTED.seconds(model, [Step(1, depth, count)]).value for count in (1, sequences))
    assert one <= many <= sequences * one * (1 + 1e-9)


def bar(model: Roofline, of: Shape, step: Step) -> float:
    said = model.seconds(of, [step])
    return said.high / said.low


def test_the_error_bar_grows_with_the_distance_from_what_was_measured() -> None:
    near, far = OTHERS[0], replace(OTHERS[0], quant="IQ3_S", head_type="Q6_K")
    nothing = fit([], SETUP)
    assert bar(FITTED, near, Step(1, 300)) < bar(FITTED, far, Step(1, 300)) < bar(nothing, far, Step(1, 300))
    few = fit([reading(KNOWN[0], step) for step in STEPS[:2]], SETUP)
    assert bar(FITTED, near, Step(512, 0)) < bar(few, near, Step(512, 0))


def other(**changes: object) -> Setup:
    return replace(SETUP, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setup", "measured", "shown"),
    [
        pytest.param(SETUP, True, f"{COUNT} readings of llama.cpp on this device", id="itself"),
        pytest.param(other(threads=4), True, "with another count of threads", id="other threads"),
        pytest.param(
            other(build="llama 2", kv_type="q8_0"), True, "another build and another KV type", id="two differ"
        ),
        pytest.param(other(backend="mlx"), False, "typical figures of such a CPU: mlx was not", id="other backend"),
        pytest.param(other(offloaded=1.0), False, "typical figures of such a GPU", id="on the GPU"),
    ],
)
def test_the_basis_tells_what_a_prediction_rests_on(setup: Setup, measured: bool, shown: str) -> None:
    said = fit(readings([0.0] * COUNT), setup).seconds(OTHERS[0], [Step(1, 0)])
    assert shown in said.basis
    assert said.measured is measured
    if setup is not SETUP:
        assert said.high / said.low > bar(FITTED, OTHERS[0], Step(1, 0))


def test_more_threads_compute_faster() -> None:
    four = fit(readings([0.0] * COUNT), other(threads=4))
    two = FITTED.seconds(OTHERS[0], [Step(512, 0)]).value
    assert 0.5 * two < four.seconds(OTHERS[0], [Step(512, 0)]).value < 0.8 * two


def test_a_rate_turns_its_error_bar_round() -> None:
    assert Prediction(2.0, 1.0, 4.0, "").inverse(8.0) == Prediction(4.0, 2.0, 8.0, "")


@pytest.mark.parametrize(
    ("label", "kernel"),
    [("Q4_K_M", "Q4_K"), ("UD-Q4_K_XL", "Q4_K"), ("Q4_0", "Q4_0"), ("IQ4_XS", "IQ4"), ("F16", "F16"), ("w8", "W8")],
)
def test_kernels_of_quantisations(label: str, kernel: str) -> None:
    assert family(label) == kernel
