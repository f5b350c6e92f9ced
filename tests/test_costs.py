"""Step costs: what readings of some sizes say of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.costs import StepCosts

READINGS = st.lists(st.tuples(st.integers(1, 512), st.floats(1e-4, 10.0)), min_size=1, max_size=30)


def costs(*readings: tuple[int, float]) -> StepCosts:
    made = StepCosts()
    for tokens, seconds in readings:
        made.add(tokens, seconds)
    return made


@given(READINGS, st.integers(1, 511))
def test_a_larger_step_never_promises_to_be_faster(readings: list[tuple[int, float]], tokens: int) -> None:
    made = costs(*readings)
    small, large = made.estimate(tokens), made.estimate(tokens + 1)
    assert small is not None
    assert large is not None
    assert small <= large * (1 + 1e-9)


@given(READINGS, st.floats(1e-4, 20.0), st.integers(1, 512))
def test_the_largest_step_keeps_its_promise(readings: list[tuple[int, float]], seconds: float, most: int) -> None:
    made = costs(*readings)
    largest = made.largest(seconds, most)
    assert 1 <= largest <= most
    cost, next_cost = made.estimate(largest), made.estimate(largest + 1)
    assert cost is not None
    assert next_cost is not None
    assert largest == 1 or cost <= seconds
    assert largest == most or next_cost > seconds


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [pytest.param(1, 0.01, id="read"), pytest.param(50, 0.11, id="between"), pytest.param(200, 0.44, id="beyond")],
)
def test_lines_between_readings(tokens: int, seconds: float) -> None:
    assert costs((1, 0.01), (99, 0.21), (100, 0.22)).estimate(tokens) == pytest.approx(seconds, rel=0.05)


def test_one_outlier_does_not_decide() -> None:
    made = costs(*[(8, 0.1)] * 5, (8, 60.0))
    assert made.estimate(8) == pytest.approx(0.2)
    made = costs(*[(8, 0.1)] * 5, *[(8, 60.0)] * 12)
    assert (made.estimate(8) or 0) > 30


def test_nothing_is_known_before_the_first_reading() -> None:
    assert StepCosts().estimate(1) is None
    assert StepCosts().largest(1.0, 512) == 1
