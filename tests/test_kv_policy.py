"""What is given up first: by worth, a block before the one that it continues, and no worse than by age alone."""

from __future__ import annotations

from itertools import islice

import pytest

from backends.kv.policy import ExpectedSaving, Facts, LeastFrequent, LeastRecent
from tests.perf.kv_replay import Cache, packed64, replay
from tests.perf.kv_traces import TRACES, Visit

NOW = 10_000.0


def block(*, size: int = 100, cost_s: float = 1.0, uses: int = 1, used: float = NOW - 100) -> Facts:
    return Facts(size, cost_s, uses, NOW - 5000, used)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (block(cost_s=2.0), block()),
        (block(uses=4), block()),
        (block(size=50), block()),
        (block(used=NOW - 10), block()),
        (block(uses=2, used=NOW - 120), block(uses=1)),
        # A loop that has ended is not kept for its past.
        (block(), block(uses=30, used=NOW - 3000)),
    ],
    ids=["dearer", "used more", "smaller", "newer", "used more, a little older", "long quiet"],
)
def test_worth_follows_expected_saving(better: Facts, worse: Facts) -> None:
    policy = ExpectedSaving()
    assert policy.worth(better, NOW, 1000.0) > policy.worth(worse, NOW, 1000.0)


def test_the_end_of_a_conversation_goes_before_its_beginning() -> None:
    cache = Cache(10 * 256 * 23_040, LeastRecent())
    long = tuple(range(160))
    cache.visit(Visit(0.0, long, ()))
    cache.visit(Visit(1.0, tuple(range(1000, 1080)), ()))
    assert cache.tree.match(packed64(long)).length == 80


@pytest.mark.parametrize("name", TRACES)
def test_replayed_traces_save_about_as_much_as_the_best_baseline(name: str) -> None:
    """A short part of each; `tests.perf.kv_replay` plays the whole ones at several sizes."""
    visits = list(islice(TRACES[name](), 250))
    saved = {type(p).__name__: replay(visits, 2**29, p)[0] for p in (LeastRecent(), LeastFrequent(), ExpectedSaving())}
    assert saved["ExpectedSaving"] >= 0.99 * max(saved.values())
