"""What restoring is expected to cost: accidents do not count, and what is slow indeed does."""

from __future__ import annotations

import pytest

from backends.kv.speed import Speed

FAST, SLOW = (1_000_000, 0.001), (1_000_000, 1.0)


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([], 0.0),
        ([SLOW], 0.0),
        ([SLOW, FAST, FAST], 0.001),
        ([FAST, SLOW, FAST, FAST], 0.001),
        ([SLOW, SLOW, FAST, SLOW], 1.0),
    ],
    ids=["nothing seen", "one slow reading", "an accident first", "an accident between", "a slow engine"],
)
def test_an_accident_does_not_end_restoring(readings: list[tuple[int, float]], expected: float) -> None:
    speed = Speed()
    for size, seconds in readings:
        speed.append(size, seconds)
    assert speed.restore_s(1_000_000, from_ssd=False) == pytest.approx(expected)
    assert speed.restore_s(1_000_000, from_ssd=True) == pytest.approx(expected)


def test_the_disk_comes_on_top() -> None:
    speed = Speed()
    for _ in range(3):
        speed.append(*FAST)
        speed.read(*SLOW)
    assert speed.restore_s(500_000, from_ssd=True) == pytest.approx(0.5005)
    assert speed.restore_s(500_000, from_ssd=False) == pytest.approx(0.0005)


def test_what_was_slow_is_tried_again_in_time() -> None:
    now = [0.0]
    speed = Speed(lambda: now[0])
    for _ in range(5):
        speed.append(*SLOW)
    assert speed.restore_s(1_000_000, from_ssd=False) == pytest.approx(1.0)
    now[0] = 3600.0
    assert speed.restore_s(1_000_000, from_ssd=False) == 0.0
