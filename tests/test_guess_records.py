"""What guessing tokens brought: remembered by model and engine, and told as on or off with the gain or the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.guesses import Guesses
from localai import config
from localai.guess_records import GuessRecord, GuessRecords, verdict

PAID = Guesses(drafted=50, accepted=40, by=("lookup",), made=50, price=25.0)
LOST = Guesses(drafted=50, accepted=5, by=("lookup",), made=15, price=25.0)
FEW = Guesses(drafted=3, accepted=0, by=("lookup",), made=1, price=2.0)
NEVER = Guesses(unguessed="nothing repeats")


def test_steps_add_up() -> None:
    both = Guesses().and_then(4, 3, "lookup", 1.5).and_then(4, 0, "draft", 2.5)
    assert (both.drafted, both.accepted, both.made, both.price, both.by) == (8, 3, 5, 4.0, ("lookup", "draft"))
    assert both.gain == pytest.approx(5 / 4)
    later = NEVER.after(both)
    assert (later.gain, later.said) == (both.gain, "off: nothing repeats")
    assert Guesses().gain is None


def known(tmp_path: Path, *found: Guesses) -> list[GuessRecord]:
    records = GuessRecords(tmp_path)
    for each in found:
        records.note("device", "model", "llama.cpp", "", each)
    return GuessRecords(tmp_path).of("device", "model")


@pytest.mark.parametrize(
    ("setting", "backend", "found", "state", "gain", "reason"),
    [
        ("auto", "llama.cpp", (), "auto", None, "not measured here yet"),
        ("auto", "llama.cpp", (PAID,), "on", 2.0, "80% of guessed tokens"),
        ("auto", "llama.cpp", (LOST,), "off", 0.6, "cost more"),
        ("auto", "llama.cpp", (FEW,), "auto", 0.5, "3 tokens were guessed here so far, too few"),
        ("lookup", "llama.cpp", (LOST,), "on", 0.6, "0.60 times"),
        ("auto", "llama.cpp", (NEVER,), "off", None, "nothing repeats"),
        ("auto", "llama.cpp", (Guesses(),), "auto", None, "not measured"),
        ("draft", "llama.cpp", (), "on", None, "draft is set"),
        ("off", "llama.cpp", (PAID,), "off", None, "switched off"),
        ("auto", "mlx", (), "off", None, "mlx verifies no guesses"),
    ],
)
def test_plans_say_why(
    tmp_path: Path, setting: str, backend: str, found: tuple[Guesses, ...], state: str, gain: float | None, reason: str
) -> None:
    chosen = config.load(environment={"LOCALAI_HOME": str(tmp_path), "LOCALAI_SPECULATION": setting})
    told = verdict(chosen, backend, "", known(tmp_path, *found))
    assert (told.state, told.gain) == (state, gain)
    assert reason in told.reason


def test_what_was_found_later_counts_more(tmp_path: Path) -> None:
    (record,) = known(tmp_path, PAID, LOST)
    assert record.gain == pytest.approx((0.7 * 50 + 15) / (0.7 * 25 + 25))
    assert known(tmp_path)[0].key == record.key
    assert GuessRecords(tmp_path).of("another", "model") == []
