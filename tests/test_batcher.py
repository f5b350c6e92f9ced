"""The step loop over the echo engine, turn by turn: who is served when, and what every step says of it."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from backends.contract import Embedding, Finish, Progress, PromptLogprobs, Sampling, Token
from backends.costs import StepCosts
from backends.prefill import GAP, SPACING, plan_prefill, urgency
from tests.batcher_loop import Loop, Timed


def test_an_interactive_prompt_overtakes_a_long_background_one(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.add(1, 3000, priority="background", max_tokens=1)
    loop.run(2)
    loop.add(2, "quick", priority="interactive", max_tokens=3)
    loop.run()
    assert loop.ends() == [(2, "length"), (1, "length")]
    assert loop.text(2) == "qui"


def test_what_has_waited_long_is_served_before_fresh_interactive_ones(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.add(1, 300, priority="background", max_tokens=1, waited=25.0)
    for number in range(2, 6):
        loop.add(number, 600, priority="interactive", max_tokens=1)
    loop.run(1)
    assert loop.records[0].shares[0].job == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("interactive", 0.0), ("normal", 5.0), id="level before age"),
        pytest.param(("background", 25.0), ("interactive", 0.0), id="age lifts two levels"),
        pytest.param(("normal", 1.0), ("normal", 0.0), id="older first"),
    ],
)
def test_urgency(tmp_path: Path, first: tuple[str, float], second: tuple[str, float]) -> None:
    loop, now = Loop(tmp_path), time.monotonic()
    keys = []
    for number, (priority, waited) in enumerate((first, second)):
        sequence = loop.prepare(number, "abc", priority=priority)
        sequence.submitted = sequence.last_served = now - waited
        keys.append(urgency(sequence, now))
    assert keys[0] < keys[1]


class DearPrefill(Timed):
    """Every prompt token costs most of what a whole decode step does, as far down in a long prompt on a CPU."""

    per_token = 0.0007


@pytest.mark.parametrize(
    ("engine", "mixed"), [pytest.param(Timed, True, id="cheap"), pytest.param(DearPrefill, False, id="dear")]
)
def test_a_long_prefill_beside_a_stream(tmp_path: Path, engine: type[Timed], mixed: bool) -> None:
    loop = Loop(tmp_path, engine=engine, n_ctx=8192)
    loop.add(1, 2000)
    loop.run(20)
    loop.records.clear()
    loop.add(2, 3000, max_tokens=1)
    while not any(job == 2 for job, _ in loop.ends()):
        loop.run(1)
    alone = [at for at, step in enumerate(loop.records) if [share.job for share in step.shares] == [2]]
    together = [step for step in loop.records if len(step.shares) == 2]
    assert len(together) > len(alone) if mixed else len(alone) > len(together)
    assert all(step.shares[0].job == 1 and step.shares[0].decoded == 1 for step in together)
    assert all(later - earlier > SPACING for earlier, later in pairwise(alone))


@pytest.mark.parametrize(
    ("readings", "decoding", "step_seconds", "low", "high"),
    [
        pytest.param([(1, 0.01), (100, 0.11)], 0, 0.15, 130, 140, id="alone: the step's own limit"),
        pytest.param([(1, 0.01), (100, 0.11)], 1, 0.15, 25, 32, id="beside a stream: GAP times its step"),
        pytest.param([(1, 0.01), (100, 0.0101)], 1, 0.15, 390, 511, id="flat costs: as on a GPU"),
        pytest.param([], 0, 0.15, 64, 64, id="unknown costs: a careful start"),
        pytest.param([(1, 0.5), (100, 9.0)], 0, 0.15, 64, 64, id="slow and alone: no less than pays off"),
    ],
)
def test_chunks_follow_the_measured_costs(
    tmp_path: Path, readings: list[tuple[int, float]], decoding: int, step_seconds: float, low: int, high: int
) -> None:
    loop, costs = Loop(tmp_path), StepCosts()
    for tokens, seconds in readings:
        costs.add(tokens, seconds)
    sequence = loop.prepare(1, 3000)
    sequence.seq = 0
    ((_, part),) = plan_prefill([sequence], decoding, costs, loop.engine.info(), step_seconds)
    assert low <= len(part.tokens) <= high
    whole, alone = costs.estimate(len(part.tokens) + decoding), costs.estimate(decoding) if decoding else None
    if whole is not None and alone is not None and len(part.tokens) > 4:
        assert whole <= GAP * alone * 1.001


def test_an_urgent_prompt_does_not_wait_for_the_rest_of_a_long_one(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.add(1, 3000, max_tokens=1)
    loop.run(2)
    loop.records.clear()
    loop.add(2, 16, priority="interactive", max_tokens=1)
    loop.run(1)
    assert [(share.job, share.prefilled) for share in loop.records[0].shares] == [(2, 16)]


@pytest.mark.parametrize(
    "readings", [pytest.param([(1, 0.5), (100, 9.0)], id="slow"), pytest.param([], id="unknown costs")]
)
def test_no_prefill_is_mixed_in_where_it_would_stall_the_others(
    tmp_path: Path, readings: list[tuple[int, float]]
) -> None:
    loop, costs = Loop(tmp_path), StepCosts()
    for tokens, seconds in readings:
        costs.add(tokens, seconds)
    sequence = loop.prepare(1, 3000)
    sequence.seq = 0
    assert plan_prefill([sequence], 1, costs, loop.engine.info(), 0.15) == []


def test_cancelling_waiting_and_running_jobs(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for number in range(20):
        loop.add(number, 50)
    loop.run(3)
    held = loop.batcher.census
    waiting, running = held.waiting, held.running
    assert (waiting, running) == (4, 16)
    loop.batcher.cancel(2)
    loop.batcher.cancel(19)
    loop.batcher.cancel(777)
    loop.run(1)
    assert sorted(loop.ends()) == [(2, "cancelled"), (19, "cancelled")]
    loop.run()
    assert sum(reason == "stop" for _, reason in loop.ends()) == 18
    held = loop.batcher.census
    assert (held.waiting, held.running, held.active) == (0, 0, 0)
    assert held.kept + held.free == loop.engine.info().n_seq


def test_a_deadline_counts_from_submission(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.add(1, 50, deadline=5.0, waited=6.0)
    loop.add(2, 50, deadline=5.0)
    loop.run()
    assert loop.ends() == [(1, "deadline"), (2, "stop")]


def test_full_cells_set_back_and_finish_all(tmp_path: Path) -> None:
    loop = Loop(tmp_path, n_ctx=256, n_seq=8)
    for number in range(4):
        loop.add(number, 100, max_tokens=60)
    loop.run()
    finishes = [e for e in loop.events if isinstance(e, Finish)]
    assert sorted(e.job for e in finishes) == [0, 1, 2, 3]
    assert all((e.usage.prompt_tokens, e.usage.completion_tokens) == (100, 60) for e in finishes)


def test_a_set_back_prompt_reports_its_logprobs_once(tmp_path: Path) -> None:
    loop = Loop(tmp_path, n_ctx=256, n_seq=8)
    loop.add(1, 100, max_tokens=120)
    loop.run(20)
    loop.add(2, 90, prompt_logprobs=0, max_tokens=60, priority="background")
    loop.add(3, 90, kind="embed", priority="background")
    loop.run()
    assert sum(len(e.tokens) for e in loop.events if isinstance(e, PromptLogprobs)) == 89
    assert sum(isinstance(e, Embedding) for e in loop.events) == 1
    assert sorted(job for job, _ in loop.ends()) == [1, 2]


def test_choices_hold_their_numbers_before_they_fork(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for number in range(12):
        loop.add(number, 300, n=8, max_tokens=3)
    most = 0
    while not loop.batcher.idle:
        loop.batcher.turn()
        most = max(most, loop.batcher.census.running)
    assert most == 16
    assert len(loop.ends()) == 96


def test_a_failing_draw_ends_all_choices_of_its_job_alone(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    nothing = Sampling(temperature=1.0, logit_bias=dict.fromkeys(range(257), float("-inf")))
    loop.add(1, 20, n=3, sampling=nothing)
    loop.add(2, 20)
    loop.run()
    assert [type(e).__name__ for e in loop.events if e.job == 1] == ["Rejected"]
    assert loop.ends() == [(2, "stop")]


def test_a_long_prefix_is_taken_over_in_small_cells(tmp_path: Path) -> None:
    loop = Loop(tmp_path, n_ctx=400)
    loop.add(1, 250, max_tokens=1)
    loop.run()
    loop.add(2, "x" * 100, max_tokens=1)
    loop.run()
    longer = loop.prepare(3, 1, max_tokens=1)
    longer.tokens[:] = [66] * 300
    loop.batcher.add(longer)
    loop.run()
    assert loop.events[-1].usage.cached_tokens == 250  # type: ignore[union-attr]


def test_shares_and_events_add_up(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for number in range(6):
        loop.add(number, f"{number} says: " + "abcdefgh" * number, max_tokens=5)
    loop.run()
    for number in range(6):
        mine = [e for e in loop.events if e.job == number and not isinstance(e, Progress)]
        assert [type(e) for e in mine] == [Token] * (len(mine) - 1) + [Finish]
        usage = mine[-1].usage  # type: ignore[union-attr]
        shares = [s for step in loop.records for s in step.shares if s.job == number]
        assert sum(s.prefilled for s in shares) == usage.prompt_tokens - usage.cached_tokens
        # The last token drawn is never run.
        assert sum(s.decoded for s in shares) == usage.completion_tokens - 1
        assert loop.text(number) == f"{number} says: "[:5]
    assert all(step.t0 <= step.t1 and step.cpu_s >= 0 for step in loop.records)
