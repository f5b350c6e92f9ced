"""What is expected of an answer, from the answers before it: in circumstances alike, robustly, and of its length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from backends.contract import Share, StepRecord
from localai.energy.experience import Circumstances, Experience, Past
from localai.energy.meter import Meter
from localai.energy.neighbours import Neighbours
from localai.energy.recorded import past
from localai.energy.report import priced, read, table
from localai.energy.sensors import nothing
from localai.energy.shares import Amount, units
from localai.energy.spending import Spending
from localai.energy.taps import EngineKey, Rates, Tap, digest
from localai.ledger import Ledger
from localai.messages import TurnRequest
from localai.metrics import Metrics

COST = (1.0, 0.5, 0.0)
TRUE = (0.010, 0.001, 0.005)
QUIET, BUSY = Circumstances(2, 0, 0.1), Circumstances(2, 0, 1.1)
KEY: EngineKey = ("model.gguf", "llama.cpp", "")


def _past(joules: float, seen: Circumstances = QUIET, tokens: int = 10) -> Past:
    amount = Amount(tokens, tokens, 0.0)
    return Past(seen=seen, decode=amount, decode_joules=joules * tokens, quality="modelled", length=tokens + 1)


def _decode(experience: Experience, now: Circumstances = QUIET) -> float:
    found = experience.per_unit("decode", now, COST)
    assert found is not None
    return found * units(COST, Amount(1, 1, 0))


def test_what_a_token_takes_follows_the_circumstances() -> None:
    """Quiet, then a neighbour takes a core and triples the joules, then it has gone: three answers to learn from."""
    steady = Experience.of([_past(0.1)] * 20)
    assert _decode(steady, BUSY) == pytest.approx(0.1)
    errors = []
    for number in range(40):
        busy = number // 10 % 2 == 0
        now, took = (BUSY, 0.3) if busy else (QUIET, 0.1)
        errors.append(abs(_decode(steady, now) - took) / took)
        steady.note(_past(took, now))
    assert sum(error > 0.01 for error in errors) == 1
    assert median(errors) < 0.01


def test_one_slow_answer_changes_nothing() -> None:
    known = Experience.of([*[_past(0.1)] * 5, _past(4.0)])
    assert _decode(known) == pytest.approx(0.1)


def test_a_lasting_change_without_a_cause_is_learned_soon() -> None:
    known = Experience.of([*[_past(0.1)] * 20, *[_past(0.3)] * 5])
    assert _decode(known) == pytest.approx(0.3)


def test_better_readings_replace_what_was_worked_out() -> None:
    known = Experience.of([*[_past(9.0)] * 20, replace(_past(0.2), quality="measured")])
    assert _decode(known) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        pytest.param([(10, True), (30, True), (20, True)], None, 20, id="the median"),
        pytest.param([(10, True), (30, True), (20, True)], 15, 15, id="never beyond the limit"),
        pytest.param([(24, False), (96, False), (40, True), (160, False)], 200, 200, id="cut answers were longer"),
        pytest.param([(24, False), (24, False), (24, False)], None, 24, id="all cut: as long as was seen"),
        pytest.param([(8, True)] * 3 + [(100, False)] * 2, 200, 8, id="most end by themselves"),
        pytest.param([], 64, 64, id="nothing known: the limit"),
        pytest.param([], None, None, id="nothing known, no limit"),
    ],
)
def test_the_length_to_expect(lengths: list[tuple[int, bool]], most: int | None, expected: int | None) -> None:
    known = Experience.of(replace(_past(0.1), length=length, whole=whole) for length, whole in lengths)
    assert known.length(most) == expected


def _steps(tap: Tap, job: int, prompt: int, answer: int) -> None:
    """An engine whose step takes 10 ms by itself, 1 ms for a token, and 5 ms for a thousand tokens of context."""
    at = 0.0
    for number in range(answer):
        share = Share(job, prompt, 0, prompt) if number == 0 else Share(job, 0, 1, prompt + number)
        tokens = prompt if number == 0 else 1
        seconds = 0.010 + 0.001 * tokens + 0.005 * tokens * (share.context - tokens / 2) / 1000
        tap.steps(StepRecord(at, at + seconds, seconds, 2, [share]))
        at += seconds


def test_prompts_and_depths_of_all_sizes_have_one_price() -> None:
    """Learned from short questions and answers alone; a token of a long prompt costs a tenth of one that is alone."""
    tap = Tap(KEY)
    for job, (prompt, answer) in enumerate([(1, 40), (20, 60), (60, 40), (5, 80), (200, 100)]):
        tap.jobs[job] = tap.begun(None, 0.0, None, 1, fixed=False)
        _steps(tap, job, prompt, answer)
        done = tap.jobs.pop(job)
        joules = [20 * units(TRUE, each) for each in (done.prefill, done.decode)]
        known: dict[str, Any] = {
            "prefill_joules": joules[0],
            "decode_joules": joules[1],
            "quality": "modelled",
            "length": answer,
        }
        tap.experience.note(Past(seen=done.began, prefill=done.prefill, decode=done.decode, **known))
    tap.jobs[9] = tap.begun(Rates(9.0, 9.0), 0.0, 64, 1, fixed=True)
    _steps(tap, 9, 1500, 64)
    asked = tap.jobs[9]
    took = 20 * (units(TRUE, asked.prefill) + units(TRUE, asked.decode))
    assert asked.predicted() == pytest.approx(took, rel=0.05)
    assert asked.forecast() == pytest.approx(took, rel=0.05)


def test_one_slow_answer_cuts_no_later_one_short() -> None:
    """The look-ahead of a limit is some tokens: by the median, and a quarter of the limit at most."""
    answers = [*[_past(0.1)] * 4, _past(50.0)]
    meter = Meter(nothing(), remembered=lambda _: answers)
    try:
        meter.open(1, KEY)
        assert not Spending(meter, 1, KEY, 1.0).over()
        meter.end(1)
    finally:
        meter.close()
    dear = Meter(nothing(), remembered=lambda _: [_past(50.0)])
    try:
        dear.open(1, KEY)
        assert not Spending(dear, 1, KEY, 60.0).over()
        dear.end(1)
    finally:
        dear.close()


def _stat(path: Path, busy: int, running: int) -> Path:
    path.write_text(f"cpu  {busy} 0 0 900 0 0 0 0 0 0\nprocs_running {running}\n")
    return path


def test_neighbours_are_all_that_is_not_ours(tmp_path: Path) -> None:
    now, own = [0.0], [0.0]
    stat = tmp_path / "stat"
    found = Neighbours(lambda: own[0], _stat(stat, 100, 1), lambda: now[0])
    now[0], own[0] = 2.0, 1.0
    _stat(stat, 100 + 300, 3)
    seen = found()
    assert seen == pytest.approx(min(1.0, found._cores), abs=0.1)
    now[0] = 2.1
    assert found() == seen
    now[0] = 100.0
    _stat(stat, 100 + 300, 2)
    assert found() == 1.0
    assert Neighbours(lambda: 0.0, tmp_path / "nothing")() == 0.0


def _row(**values: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 110, "cached_tokens": 10, "completion_tokens": 21, "finish": "stop"}
    return {**counts, "prefill_joules": 3.0, "decode_joules": 4.0, "quality": "modelled", **values}


def test_a_row_of_the_ledger_is_an_experience() -> None:
    found = past(_row())
    assert (found.prefill.tokens, found.decode.tokens, found.length, found.whole) == (100, 20, 21, True)
    assert found.prefill.looked == pytest.approx(100 * 0.06)
    assert not past(_row(finish="length")).whole
    assert past(_row(completion_tokens=None, decode_joules=None)).decode.tokens == 0


def test_an_engine_remembers_what_the_ledger_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", Metrics())
    for joules, predicted in ((2.0, 1.0), (2.0, 2.5), (2.0, None)):
        with ledger.entry(TurnRequest(kind="chat", model="m")) as entry:
            entry.routed("m", "llama.cpp", "", KEY)
            entry.row |= {"joules": joules, "predicted_joules": predicted, "decode_joules": joules, "prompt_tokens": 9}
            entry.row |= {"completion_tokens": 11, "forecast_tokens": 22, "forecast_joules": 4.0, "quality": "modelled"}
    known = [past(row) for row in ledger.answers_of(digest(KEY), 2)]
    assert [each.decode_joules for each in known] == [2.0, 2.0]
    (row,) = read(ledger._db.query, "model", 0.0)
    assert (row["prediction_error"], row["forecast_error"], row["length_error"]) == pytest.approx((0.375, 1.0, 1.0))
    assert (row["predictions"], row["answers"]) == (2, 3)
    shown = {"by": "model", "tariff": None, "currency": "", "carbon": None}
    assert "off by" not in table({**shown, "rows": [priced(row, tariff=0, carbon=0)]})
    told = table({**shown, "rows": [priced({**row, "predictions": 5}, tariff=0, carbon=0)]})
    assert "predictions (5) were off by a median of: joules of the tokens that came 38%, expected length 100%" in told
    ledger.close()
