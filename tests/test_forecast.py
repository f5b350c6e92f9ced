"""Seconds foretold from readings: exact where the engine is as simple as the model, sensible between and beyond."""

from __future__ import annotations

import pytest

from localai.forecast import Speeds, Workload, fastest_of
from localai.readings import Phase, Reading, Shape

SHAPE = Shape("llama", "Q4_1", 30, 576, 10**8, 10**8, 2 * 10**8, 10**7, 11_520, 10**6)
A, B, C = 0.004, 0.002, 2e-6
"""Seconds of a step, of each token in it, and of each token and token of depth."""
MORE = 0.003


def reading(
    phase: Phase, tokens: int, depth: int, sequences: int = 1, *, threads: int = 2, slow: float = 1.0
) -> Reading:
    count = tokens * sequences
    step = A + (B if phase != "decode" else MORE) * (count - (phase == "decode")) + C * count * (depth + tokens / 2)
    return Reading(
        "onnx",
        "onnxruntime 1",
        "",
        threads,
        "f16",
        SHAPE,
        phase,
        tokens,
        depth,
        sequences,
        slow * step,
        slow * step,
        0.0,
    )


def program(threads: int = 2, slow: float = 1.0) -> list[Reading]:
    sizes: list[tuple[Phase, int, int, int]] = [
        ("prefill", 32, 0, 1),
        ("prefill", 512, 0, 1),
        ("prefill", 256, 1024, 1),
        ("decode", 1, 40, 1),
        ("decode", 1, 1030, 1),
        ("decode", 1, 40, 8),
        ("embed", 128, 0, 1),
    ]
    return [reading(*size, threads=threads, slow=slow) for size in sizes for _ in range(2)]


@pytest.fixture
def speeds() -> Speeds:
    made = Speeds.of(program())
    assert made is not None
    return made


@pytest.mark.parametrize(("tokens", "depth"), [(32, 0), (300, 0), (512, 0), (2048, 0), (256, 2000)])
def test_prefill_of_a_simple_engine(speeds: Speeds, tokens: int, depth: int) -> None:
    steps = -(-tokens // 512)
    true = steps * A + B * tokens + C * tokens * (depth + tokens / 2)
    assert speeds.prefill(tokens, depth) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize(("tokens", "depth", "sequences"), [(100, 0, 1), (100, 1000, 1), (64, 0, 4), (64, 0, 16)])
def test_decode_of_a_simple_engine(speeds: Speeds, tokens: int, depth: int, sequences: int) -> None:
    true = tokens * (A + MORE * (sequences - 1) + C * sequences * (depth + tokens / 2))
    assert speeds.decode(tokens, depth, sequences) == pytest.approx(true, rel=0.1)


def test_a_request_is_prefill_of_what_is_new_and_decode_behind_it(speeds: Speeds) -> None:
    whole = Workload(prompt=1000, answer=50)
    assert speeds.seconds(whole) == pytest.approx(speeds.prefill(1000) + speeds.decode(50, 1000))
    cached = Workload(prompt=1000, answer=50, cached=900)
    assert speeds.seconds(cached) == pytest.approx(speeds.prefill(100, 900) + speeds.decode(50, 1000))
    together = Workload(prompt=100, answer=50, prompts=8)
    assert speeds.seconds(together) == pytest.approx(8 * speeds.prefill(100) + speeds.decode(50, 100, 8))


def test_embeddings_need_a_reading_of_their_own(speeds: Speeds) -> None:
    work = Workload(prompt=256, answer=0, embeds=True, prompts=2)
    assert speeds.seconds(work) == pytest.approx(512 * reading("embed", 128, 0).seconds / 128)
    without = Speeds.of([r for r in program() if r.phase != "embed"])
    assert without is not None
    assert without.seconds(work) is None


@pytest.mark.parametrize("missing", ["prefill", "decode"])
def test_half_a_measurement_is_none(missing: str) -> None:
    assert Speeds.of([r for r in program() if r.phase != missing]) is None


def test_the_thread_count_that_decodes_fastest_counts() -> None:
    few = [reading("prefill", 32, 0, threads=1, slow=0.5), reading("decode", 1, 40, threads=1, slow=0.5)]
    found = fastest_of(program(threads=2) + few)
    assert found is not None
    threads, speeds = found
    full = Speeds.of(program())
    assert threads == 1
    assert full is not None
    # What only two threads were measured for is taken over in proportion.
    assert speeds.decode(10, 2000) == pytest.approx(0.5 * full.decode(10, 2000), rel=0.05)
    assert fastest_of([]) is None
