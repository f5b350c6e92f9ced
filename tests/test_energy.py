"""Sharing joules: the sums are exact for any schedule, and each answer's part is near the truth and says how near."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localai.energy.rhythm import Rhythm
from localai.energy.sensor import Spec
from tests.energy_traces import Watching, meter, schedule

NVML = Spec(
    id="nvml", scope="gpu_board", method="counter", period_s=0.1, covers="", lag_s=0.02, jitter_s=0.01, accuracy=0.0
)
RAPL = Spec(id="rapl", scope="cpu_package", method="counter", period_s=0.001, covers="", accuracy=0.0)
SENSORS = {"nvml": (NVML, 1e-3, 0, None, 60.0, 200.0), "rapl": (RAPL, 1e-6, 262_143_328, 0.1, 10.0, 30.0)}
"""Specification, joules per unit, where it wraps, seconds between readings or None as paced, idle and work watts."""


@settings(max_examples=1000, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    engines=st.integers(1, 3),
    jobs=st.integers(1, 6),
    period=st.sampled_from([0.001, 0.02, 0.1, 0.3]),
    lag=st.sampled_from([0.0, 0.5]),
    jitter=st.sampled_from([0.0, 0.2]),
    idle=st.sampled_from([0.0, 15.0]),
    wraps_at=st.sampled_from([0, 200_000]),
)
def test_nothing_is_lost_or_made(
    seed: int, engines: int, jobs: int, period: float, lag: float, jitter: float, idle: float, wraps_at: int
) -> None:
    rng = random.Random(seed)
    trace = schedule(rng, seconds=1.0, engines=engines, jobs=jobs, idle_watts=idle)
    spec = Spec(
        id="any", scope="gpu_board", method="counter", period_s=period, covers="", lag_s=lag * period,
        jitter_s=jitter * period,
    )  # fmt: skip
    watching = Watching(trace, spec, rng, unit=1e-3, wraps_at=wraps_at, gain=1.0)
    book, closed = meter(trace, watching, poll=max(0.05, period / 2), rng=rng, until=6.0)
    given_out = sum(account.joules + account.idle for account in closed.values())
    assert given_out + book.idle + book.leftover == pytest.approx(book.risen, rel=1e-6)
    counted = watching.sensor.read(watching.now)
    assert book.risen == pytest.approx(counted, rel=0.02, abs=0.3 * (idle + 1))
    assert min(account.joules for account in closed.values()) >= 0


def _judged(name: str, seed: int) -> tuple[list[tuple[float, float, bool]], float]:
    """Of each request of over 20 periods: relative error, uncertainty, whether alone; and the unattributed share."""
    spec, unit, wraps_at, poll, idle, watts = SENSORS[name]
    rng = random.Random(f"{name} {seed}")
    seconds = max(1.0, 60 * spec.period_s)
    trace = schedule(
        rng,
        seconds=seconds,
        engines=1 + seed % 2,
        jobs=4,
        idle_watts=idle * rng.uniform(0.5, 1.5),
        quiet=20,
        watts=watts,
    )
    watching = Watching(trace, spec, rng, unit=unit, wraps_at=wraps_at, gain=1.0)
    book, closed = meter(trace, watching, poll=poll, rng=rng, until=3 * seconds + 22)
    found = []
    for job, account in closed.items():
        begin, end = trace.jobs[job]
        if end - begin > 20 * spec.period_s:
            true = trace.truth(job)
            uncertainty = book.uncertainty(account)
            assert uncertainty is not None
            found.append((abs(account.joules - true) / true, uncertainty / account.joules, not account.shared))
    return found, abs(book.leftover) / book.risen


@pytest.mark.parametrize("name", SENSORS)
def test_each_part_is_near_the_truth_and_says_how_near(name: str) -> None:
    judged = [_judged(name, seed) for seed in range(60)]
    found = [each for part, _ in judged for each in part]
    errors = sorted(error for error, _, _ in found)
    assert len(errors) > 100
    assert errors[-1] <= 0.03
    assert sum(error <= stated for error, stated, _ in found) / len(found) >= 0.95
    assert max(lost for _, lost in judged) <= 0.02


@pytest.mark.parametrize(
    ("period", "most", "width"),
    [(0.1, 450, 0.01), (0.02, 450, 0.04), (0.35, 750, 0.026)],
    ids=["as told", "fast", "slow"],
)
def test_a_coarse_counter_is_read_closely_where_it_changes(period: float, most: int, width: float) -> None:
    """Readings in ten seconds, and how long before the reading that shows a change the last one was, in the median."""
    rhythm, now, readings, pauses, seen = Rhythm(NVML), 0.0, 0, [], -1.0
    wait = 0.0
    while now < 10:
        value = float(now // period)
        if value != seen and readings:
            pauses.append(wait)
        seen, readings = value, readings + 1
        wait = rhythm.wait(now, value)
        now += wait
    assert readings <= most
    assert statistics.median(pauses) <= width
