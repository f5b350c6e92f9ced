"""The thread governor beside a neighbour that comes and goes, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.threads import ThreadGovernor

Cost = Callable[[int, int], float]
"""Seconds of a step by threads and tokens."""


def quiet(threads: int, tokens: int) -> float:
    return 0.010 * (1 + tokens / 8) / threads


def crowded(threads: int, tokens: int) -> float:
    return quiet(1, tokens) * (1.1 if threads == 1 else 20.0)


class Machine:
    """Runs steps of a governor and keeps what they took."""

    def __init__(self, idle: Callable[[], float | None] = lambda: None) -> None:
        self.governor = ThreadGovernor((1, 2), idle)
        for threads in (1, 2):
            for tokens in (1, 32):
                self.governor.learn(threads, tokens, quiet(threads, tokens))
        self.now = 100.0

    def run(self, seconds: float, cost: Cost, sizes: tuple[int, ...] = (1,)) -> dict[int, float]:
        """Seconds spent by thread count."""
        spent = {1: 0.0, 2: 0.0}
        end, step = self.now + seconds, 0
        while self.now < end:
            tokens = sizes[step % len(sizes)]
            took = cost(self.governor.threads, tokens)
            spent[self.governor.threads] += took
            self.now += took
            self.governor.after_step(tokens, took, self.now)
            step += 1
        return spent


MIXES = [pytest.param((1,), id="decode"), pytest.param((1, 40, 7, 200, 3), id="mixed sizes")]


@pytest.mark.parametrize("sizes", MIXES)
def test_a_neighbour_takes_one_core_and_gives_it_back(sizes: tuple[int, ...]) -> None:
    machine = Machine()
    machine.run(5, quiet, sizes)
    assert (machine.governor.threads, machine.governor.changes) == (2, 0)
    spent = machine.run(120, crowded, sizes)
    assert spent[2] < 0.2 * spent[1]
    machine.run(180, quiet, sizes)
    assert machine.governor.threads == 2


@pytest.mark.parametrize("sizes", MIXES)
def test_trials_get_rare_while_they_fail(sizes: tuple[int, ...]) -> None:
    machine = Machine()
    machine.run(60, crowded, sizes)
    before = machine.governor.changes
    spent = machine.run(200, crowded, sizes)
    assert machine.governor.changes - before <= 2 * 200 / 16 + 2
    assert spent[2] < 0.10 * 200


def test_failures_beside_a_neighbour_do_not_delay_the_return() -> None:
    free = 1.0
    machine = Machine(lambda: free)
    machine.run(60, crowded)
    assert machine.governor.threads == 1
    free = 0.0
    assert machine.run(5, crowded)[2] == 0.0
    free = 1.0
    machine.run(2.5, quiet)
    assert machine.governor.threads == 2


def test_a_deepening_context_is_no_neighbour() -> None:
    machine = Machine()
    depth = 1.0

    def deepening(threads: int, tokens: int) -> float:
        nonlocal depth
        depth *= 1.0015
        return quiet(threads, tokens) * depth

    machine.run(20, deepening)
    assert depth > 2
    assert machine.governor.threads == 2
    assert machine.governor.changes <= 4


def test_tokens_behind_a_long_prompt_are_no_neighbour() -> None:
    governor = Machine().governor
    now = 0.0
    for depth in range(128, 4096, 128):
        governor.after_step(128, quiet(2, 128), now := now + 1, depth, depth)
    for _ in range(200):
        governor.after_step(1, 4.0 * quiet(2, 1), now := now + 1, 0, 4000)
    assert (governor.threads, governor.changes) == (2, 0)
    for _ in range(20):
        governor.after_step(1, 8.0 * quiet(2, 1), now := now + 1, 0, 4000)
    assert governor.changes > 0


def test_one_count_never_changes() -> None:
    governor = ThreadGovernor((1,))
    assert [governor.after_step(1, seconds, 1.0) for seconds in (0.1, 5.0, 5.0, 5.0, 5.0)] == [None] * 5
