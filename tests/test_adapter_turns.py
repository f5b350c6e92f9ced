"""Turns between adapters: who comes next, how long a turn lasts, that nobody starves; then the step loop that asks."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.adapter_turns import LEAST_TURN_S, MOST_TURN_S, WEIGHT, AdapterTurns
from backends.constrain import Constraints
from backends.contract import Adapter, Job, Priority, Rejected
from backends.echo import EchoEngine
from backends.errors import InvalidJob
from backends.kv_frames import KvGrant
from backends.sequences import prepare
from tests.batcher_loop import Loop
from tests.engine_runs import echo_file, order

PRIORITIES = st.sampled_from(list(WEIGHT))


def played(turns: AdapterTurns[str], present: dict[str, Priority], steps: int, seconds: float = 0.01) -> list[str]:
    """The groups that `steps` steps of equal length went to."""
    order = []
    for _ in range(steps):
        order.append(turns.choose({key: [priority] for key, priority in present.items()}))
        turns.took(seconds, None)
    return order


def test_one_group_alone_always_has_its_turn() -> None:
    assert set(played(AdapterTurns(), {"a": "background"}, 100)) == {"a"}


def test_equals_alternate_and_a_turn_has_several_steps() -> None:
    order = played(AdapterTurns(), {"a": "normal", "b": "normal"}, 100)
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert order.count("a") == order.count("b") == 50
    assert changes == 100 * 0.01 / LEAST_TURN_S - 1


@pytest.mark.parametrize(
    ("change_s", "turn_s"),
    [(0.0, LEAST_TURN_S), (0.02, 0.2), (9.0, MOST_TURN_S)],
    ids=["cheap", "ten changes long", "never longer than people wait"],
)
def test_a_turn_is_long_against_a_change(change_s: float, turn_s: float) -> None:
    turns: AdapterTurns[str] = AdapterTurns()
    turns.choose({"a": ["normal"]})
    assert turns.took(0.01 + change_s, 0.01) == pytest.approx(change_s)
    assert turns.turn_s == pytest.approx(turn_s)


def test_an_interactive_newcomer_does_not_wait_for_the_turns_end() -> None:
    turns: AdapterTurns[str] = AdapterTurns()
    played(turns, {"a": "normal"}, 3)
    assert played(turns, {"a": "normal", "b": "interactive"}, 1) == ["b"]
    assert played(turns, {"a": "normal", "b": "interactive", "c": "normal"}, 1) == ["b"]


def test_who_was_alone_for_long_owes_nothing() -> None:
    turns: AdapterTurns[str] = AdapterTurns()
    played(turns, {"a": "normal"}, 1000)
    order = played(turns, {"a": "normal", "b": "normal"}, 100)
    assert order.count("a") == 50


@given(st.lists(PRIORITIES, min_size=2, max_size=6), st.floats(0.001, 0.5))
def test_time_is_shared_by_weight_and_nobody_starves(priorities: list[Priority], seconds: float) -> None:
    present = {str(number): priority for number, priority in enumerate(priorities)}
    order = played(AdapterTurns(), present, 2000, seconds)
    whole = sum(WEIGHT[priority] for priority in priorities)
    turn = max(LEAST_TURN_S / seconds, 1.0) + 1
    for key, priority in present.items():
        fair = 2000 * WEIGHT[priority] / whole
        assert abs(order.count(key) - fair) <= turn * len(present)


# -- the step loop, over the echo engine, which notices what was computed under other adapters


def adapter(folder: Path, shift: int | str) -> tuple[Adapter, ...]:
    path = folder / f"{shift}.txt"
    path.write_text(str(shift))
    return (Adapter(str(path)),)


def test_different_adapters_never_share_a_step(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    groups = [(), adapter(tmp_path, 1), adapter(tmp_path, 2)]
    for number in range(9):
        loop.add(number, "abcabc" * 10, adapters=groups[number % 3], max_tokens=24)
    loop.run()
    for step in loop.records:
        assert len({share.job % 3 for share in step.shares}) == 1
    assert any(len(step.shares) > 1 for step in loop.records)
    assert [loop.text(number) for number in range(3)] == ["abc" * 8, "bcd" * 8, "cde" * 8]
    assert len(loop.ends()) == 9


@pytest.mark.parametrize("ram", [0, 10**6], ids=["in the cells", "in RAM"])
def test_a_prefix_is_not_shared_between_adapters(tmp_path: Path, ram: int) -> None:
    loop = Loop(tmp_path, "2", kv=KvGrant(ram=ram))
    prompt = "a prompt that all of them have in common"
    cached = []
    for number, adapters in enumerate([(), adapter(tmp_path, 1), adapter(tmp_path, 2), adapter(tmp_path, 1), ()]):
        loop.add(number, prompt, adapters=adapters, max_tokens=3)
        loop.run()
        usage = loop.events[-1].usage  # type: ignore[union-attr]
        cached.append(usage.cached_tokens)
    assert set(usage.cached_by_tier) == {"ram" if ram else "live"}
    assert cached == [0, 0, 0, len(prompt) - 1, len(prompt) - 1]
    scaled = (msgspec.structs.replace(adapter(tmp_path, 1)[0], scale=0.5),)
    loop.add(9, prompt, adapters=scaled, max_tokens=3)
    loop.run()
    assert loop.events[-1].usage.cached_tokens == 0  # type: ignore[union-attr]


def test_an_adapter_that_fails_ends_its_own_jobs_only(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.add(1, "first", max_tokens=5)
    loop.add(2, "second", adapters=adapter(tmp_path, "no number"), n=3)
    loop.add(3, "third", adapters=adapter(tmp_path, 1), max_tokens=5)
    loop.run()
    assert [e.job for e in loop.events if isinstance(e, Rejected)] == [2]
    assert sorted(loop.ends()) == [(1, "length"), (3, "length")]
    assert (loop.text(1), loop.text(3)) == ("first", "uijse")


def test_an_interactive_request_overtakes_other_adapters(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for number in range(4):
        loop.add(number, 2000, adapters=adapter(tmp_path, 1), priority="background", max_tokens=1)
    loop.run(2)
    loop.add(9, "quick", priority="interactive", max_tokens=3)
    loop.run()
    assert loop.ends()[0] == (9, "length")


def test_an_engine_without_adapters_says_so(tmp_path: Path) -> None:
    engine = EchoEngine(order(echo_file(tmp_path)), lambda *_: None)
    info = msgspec.structs.replace(engine.info(), capabilities=frozenset({"generate"}))
    job = Job(id=1, tokens=[1], adapters=adapter(tmp_path, 1))
    with pytest.raises(InvalidJob, match="takes no adapters"):
        prepare(job, info, engine.tokenizer, Constraints(engine.tokenizer))
