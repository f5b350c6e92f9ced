"""Model `auto` without engines: which runs count, what a query is taken for, which plan is taken, what a check says."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localai.auto.abilities import Ability, Score
from localai.auto.boards import Board, Runs, board
from localai.auto.checking import alike, comparable, sound
from localai.auto.classifier import trained
from localai.auto.phrasings import ELSE, drawn
from localai.auto.picking import Plan, bids, plan
from localai.bench import journal
from localai.bench.suites import generated
from localai.config import Config
from localai.forecast import Workload
from localai.router import default_model, means_auto
from tests.auto_runs import finished

DATA = Path(__file__).parents[2] / "shared" / "data"
BOTH = {"arithmetic": 20, "code": 30}


def same(name: str) -> str:
    """Every model is still the file that was measured."""
    return name[0] * 64


def of(home: Path, digest_of: Callable[[str], str | None] = same) -> Board:
    return board(Runs(home).all(), digest_of)


# -- runs and boards


def test_a_run_tells_accuracy_by_category_and_joules_per_token(tmp_path: Path) -> None:
    finished(tmp_path, {"small": (BOTH, 1.0), "large": ({"arithmetic": 36, "code": 38}, 4.0)})
    found = {each.model: each for each in of(tmp_path).abilities}
    assert found["small"].scores == {"arithmetic": Score(20, 40), "code": Score(30, 40)}
    assert found["small"].prefill == pytest.approx(0.25)
    assert found["small"].decode == pytest.approx(1.0)
    assert found["large"].joules(Workload(prompt=10, answer=4)) == pytest.approx(26.0)
    assert found["large"].joules(Workload(prompt=10, answer=4, cached=8)) == pytest.approx(18.0)


def test_the_newest_run_of_a_model_counts(tmp_path: Path) -> None:
    finished(tmp_path, {"small": (BOTH, 1.0), "large": (BOTH, 4.0)})
    finished(tmp_path, {"small": ({"arithmetic": 5}, 2.0)}, started=1_800_000_000.0)
    found = {each.model: each for each in of(tmp_path).abilities}
    assert found["small"].pooled == Score(5, 40)
    assert found["large"].pooled == Score(50, 80)


def test_models_that_changed_or_went_are_left_out(tmp_path: Path) -> None:
    finished(tmp_path, {"small": (BOTH, 1.0), "gone": (BOTH, 2.0), "new": (BOTH, 3.0)})
    now = {"small": "s" * 64, "gone": None, "new": "x" * 64}
    assert of(tmp_path, now.__getitem__).models == {"small"}


def test_modelled_joules_never_meet_measured_ones(tmp_path: Path) -> None:
    finished(tmp_path, {"a": (BOTH, 1.0), "b": (BOTH, 2.0)})
    finished(tmp_path, {"c": (BOTH, 0.1)}, started=1_800_000_000.0, quality="measured")
    found = of(tmp_path)
    assert {each.quality for each in found.abilities} == {"modelled"}
    assert found.left_out == ("c: its joules are of another kind",)


def test_what_is_not_finished_or_broken_is_no_run(tmp_path: Path) -> None:
    path = finished(tmp_path, {"small": (BOTH, 1.0)})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    (journal.folder(tmp_path) / "x.journal.jsonl").write_text("{}\n")
    runs = Runs(tmp_path)
    assert runs.all() == []
    path.write_bytes(b"".join(lines))
    assert len(runs.all()) == 1


# -- what a query is


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_the_benchmarks_own_questions_are_recognised(suite: str) -> None:
    items = generated(suite, 4711).items
    right = sum(trained().guess(item.prompt).category == item.category for item in items)
    assert right >= 0.95 * len(items)


def test_other_manners_of_asking_are_recognised() -> None:
    texts = list(drawn(4711, 40))
    right = sum(trained().guess(text.text).category == text.category for text in texts)
    assert right >= 0.95 * len(texts)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("What's 17 times 23?", "arithmetic"),
        ("Sort 3, 1, 2", "ordering"),
        ("write a regex for emails in python", "code"),
        ("Write a haiku about rain", ELSE),
        ("how are you", ELSE),
        ("", ELSE),
        ("qwzx vbnm" * 50, ELSE),
    ],
)
def test_single_questions(text: str, category: str) -> None:
    guess = trained().guess(text)
    assert guess.category == category
    assert (guess.mix == {}) == (category == ELSE)
    assert 0 <= guess.probability <= 1


@pytest.mark.skipif(not DATA.is_dir(), reason="the published test sets are not here")
@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("boolean_expressions", ELSE),
        ("logical_deduction_three_objects", ELSE),
        ("navigate", ELSE),
        ("object_counting", "arithmetic"),
        ("word_sorting", "ordering"),
        ("humaneval", "code"),
    ],
)
def test_published_questions_are_recognised(name: str, category: str) -> None:
    if name == "humaneval":
        with gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz") as lines:
            texts = [json.loads(line)["prompt"] for line in lines]
    else:
        texts = [row["input"] for row in json.loads((DATA / "bbh" / f"{name}.json").read_text())["examples"]]
    right = sum(trained().guess(text).category == category for text in texts)
    assert right >= 0.9 * len(texts)


def test_probabilities_are_calibrated() -> None:
    """Held-out manners: what is said with 90 % is right at least about that often."""
    guesses = [(trained().guess(text.text), text.category) for text in drawn(99, 60)]
    sure = [guess.category == category for guess, category in guesses if guess.probability >= 0.9]
    assert len(sure) > 0.5 * len(guesses)
    assert sum(sure) >= 0.9 * len(sure)


def test_a_guess_takes_less_than_a_millisecond() -> None:
    texts = [text.text for text in drawn(5, 20)]
    trained()
    begun = time.thread_time()
    for text in texts:
        trained().guess(text)
    assert (time.thread_time() - begun) / len(texts) < 1e-3


# -- which plan


def able(name: str, right: int, joules: float, *, asked: int = 400, **more: Any) -> Ability:
    given: dict[str, Any] = {
        "model": name,
        "backend": "onnx",
        "digest": "",
        "size_bytes": int(1e6 * joules),
        "scores": {"arithmetic": Score(right, asked), "code": Score(asked - right, asked)},
        "prefill": joules / 10,
        "decode": joules,
        "quality": "modelled",
        "scope": (),
    }
    return Ability(**{**given, **more})


WORK = Workload(prompt=20, answer=8)
SURE = {"arithmetic": 1.0}


def planned(*abilities: Ability, least: float = 0.9, limit: float | None = None, mix: Any = SURE, **more: Any) -> Plan:
    return plan(bids(abilities, mix, WORK, {}), least, limit, **more)


def test_the_cheapest_that_is_good_enough_answers() -> None:
    small, middle, large = able("small", 100, 1.0), able("middle", 350, 2.0), able("large", 370, 5.0)
    made = planned(large, small, middle)
    assert (made.first.ability.model, made.then) == ("middle", None)
    assert made.times == pytest.approx(2.5)
    assert made.lost == pytest.approx(20 / 400, rel=0.02)
    assert planned(large, small, middle, least=1.0).first.ability.model == "large"
    assert planned(large, small, middle, least=0.0).first.ability.model == "small"


def test_each_category_has_a_model_of_its_own() -> None:
    small, large = able("small", 100, 1.0), able("large", 370, 5.0)
    assert planned(small, large).first.ability.model == "large"
    assert planned(small, large, mix={"code": 1.0}).first.ability.model == "small"
    # Of an unknown kind: right in half of all questions, both of them.
    assert planned(small, large, mix={}).first.ability.model == "small"


def test_a_prompt_in_the_cache_of_a_model_speaks_for_it() -> None:
    a, b = able("a", 300, 1.0), able("b", 300, 1.1)
    work = Workload(prompt=1000, answer=8)
    assert plan(bids([a, b], SURE, work, {}), 0.9, None).first.ability.model == "a"
    assert plan(bids([a, b], SURE, work, {"b on onnx": 900}), 0.9, None).first.ability.model == "b"


def test_the_limit_of_joules_is_kept() -> None:
    small, large = able("small", 100, 1.0), able("large", 370, 5.0)
    assert planned(small, large, limit=60.0).first.ability.model == "large"
    tight = planned(small, large, limit=20.0)
    assert (tight.first.ability.model, tight.tight) == ("small", True)
    assert planned(small, large, limit=0.1).tight


def test_who_is_in_doubt_is_checked() -> None:
    sample = Workload(prompt=1, answer=4)
    little = able("small", 13, 1.0, asked=20)
    large = able("large", 14, 20.0, asked=20)
    made = planned(little, large, sample=sample)
    assert made.first.ability.model == "small"
    assert made.then is not None
    assert made.then.ability.model == "large"
    assert made.samples
    assert made.first.joules < made.joules < made.then.joules
    # The same shares of many more questions leave no doubt.
    sure = planned(able("small", 1300, 1.0, asked=2000), able("large", 1400, 20.0, asked=2000), sample=sample)
    assert (sure.first.ability.model, sure.then) == ("small", None)
    # A check that costs more than the other model is none.
    dear = planned(little, replace(large, decode=1.5, prefill=0.15), sample=Workload(prompt=1, answer=64))
    assert (dear.first.ability.model, dear.then) == ("large", None)


def test_the_form_is_checked_where_nothing_else_can_be() -> None:
    made = planned(able("small", 13, 1.0, asked=20), able("large", 14, 20.0, asked=20), form=True)
    assert (made.first.ability.model, made.samples) == ("small", False)
    assert made.then is not None


# -- names


@pytest.mark.parametrize(
    ("name", "settings", "auto"),
    [
        ("auto", {}, True),
        ("", {}, False),
        ("", {"default_model": "auto"}, True),
        ("default", {"default_model": "auto"}, True),
        ("starter", {"default_model": "auto"}, False),
        ("claude-x", {"default_model": "auto"}, True),
        ("claude-x", {}, False),
        ("cheap", {"model_aliases": ("cheap=auto",)}, True),
    ],
)
def test_who_leaves_the_model_open(name: str, settings: dict[str, Any], auto: bool, tmp_path: Path) -> None:
    config = Config(home=tmp_path, **settings)
    assert means_auto(name, config) is auto
    assert default_model(config) == "starter"


# -- what a check says


@pytest.mark.parametrize(
    ("a", "b", "category", "same"),
    [
        ("12", "12.", "arithmetic", True),
        ("The answer is 12", "3 + 9 = 12", "arithmetic", True),
        ("1,200", "1200", "arithmetic", True),
        ("12", "13", "arithmetic", False),
        ("Ann", "ann.", "extraction", True),
        ("The answer is: Ann", "Ann", "extraction", True),
        ("Ann", "Bob", "extraction", False),
        ("", "", "extraction", False),
        ("twelve", "twelve", "arithmetic", True),
    ],
)
def test_answers_are_told_alike(a: str, b: str, category: str, same: bool) -> None:
    assert alike(a, b, category) is same


@pytest.mark.parametrize(
    ("text", "finish", "limit", "fault"),
    [
        ("fine", "stop", None, None),
        (" \n", "stop", None, "is empty"),
        ("and so", "length", None, "was cut"),
        ("and so", "length", 2, None),
        ("```python\nreturn (\n```", "stop", None, "does not parse"),
        ("```python\nx = 1\n```", "stop", None, None),
        ("```\nreturn (\n```", "stop", None, None),
    ],
)
def test_forms_are_checked(text: str, finish: str, limit: int | None, fault: str | None) -> None:
    assert sound(text, finish, limit) == fault


@pytest.mark.parametrize(
    ("category", "limit", "can"),
    [
        ("arithmetic", None, True),
        ("arithmetic", 16, True),
        ("arithmetic", 500, False),
        ("code", 16, False),
        (ELSE, 8, False),
    ],
)
def test_only_short_answers_are_compared(category: str, limit: int | None, can: bool) -> None:
    assert comparable(category, limit) is can
