"""The self-benchmark without a daemon: questions, scorers, sandbox, files, statistics, journal and reports."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from localai.bench import journal, pareto, report, surroundings, tables
from localai.bench.compare import compare
from localai.bench.instructions import all_met
from localai.bench.journal import config_rounds
from localai.bench.loaders import load_tasks
from localai.bench.progress import Progress
from localai.bench.rows import Block
from localai.bench.sandbox import passes
from localai.bench.scoring import likeliest, right
from localai.bench.share import shared
from localai.bench.stats import Estimate, bootstrap, mcnemar, ratio, wilson
from localai.bench.suites import NAMES, generated
from localai.bench.summary import ENOUGH, oracle, pairs, results
from localai.bench.tasks import Instruction, Item
from localai.energy.sensor import CounterSensor, Spec
from localai.errors import BadRequest, Conflict
from tests.bench_reports import PLANTED, block, configuration, head, made, row

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published test sets are not beside the checkout")


# -- questions


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_the_same_for_the_same_seed(name: str) -> None:
    first, again, other = generated(name, 1), generated(name, 1), generated(name, 2)
    assert first.digest == again.digest != other.digest
    assert len({item.id for item in first.items}) == len(first.items)
    assert len(first.categories) == 7


def test_every_question_has_an_answer_that_scores() -> None:
    for item in generated("standard", 3).items:
        if item.kind == "text" and item.answers:
            assert right(item, f" {item.answers[0]}\n"), item.id
            assert not right(item, " nothing of the kind"), item.id
        if item.kind == "choice":
            assert len({*item.choices}) == 4


def test_rounds_share_out_every_category() -> None:
    suite = generated("quick", 1)
    parts = suite.rounds(3)
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in suite.items)
    assert all({item.category for item in part} == set(suite.categories) for part in parts)


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(BadRequest, match="no suite named 'fast'"):
        generated("fast", 1)


# -- scorers


def item(scorer: str, *answers: str, prompt: str = "", tests: str = "") -> Item:
    given = {"id": "x", "category": "x", "kind": "text", "prompt": prompt, "tests": tests}
    return Item(**given, scorer=scorer, answers=answers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "text", "verdict"),
    [
        pytest.param(item("exact", "Rome"), ' "Rome".\nmore', True, id="quoted"),
        pytest.param(item("exact", "Rome"), " rome", False, id="case counts"),
        pytest.param(item("exact", "a, b"), " a,  b", True, id="spaces"),
        pytest.param(item("number", "12"), " 12.0 apples", True, id="number"),
        pytest.param(item("last_number", "1,200"), "3 + 4 ... so $1200", True, id="last number"),
        pytest.param(item("last_number", "7"), "no digits", False, id="no number"),
        pytest.param(item("json", '{"a": 1}'), ' {"a":1} ', True, id="json"),
        pytest.param(item("json", '{"a": 1}'), '{"a": 1', False, id="broken json"),
        pytest.param(
            item("code", prompt="def f(x):\n    return", tests="assert f(2) == 4\n"), " x * 2", True, id="code"
        ),
        pytest.param(item("code", prompt="def f(x):\n    return", tests="assert f(2) == 4\n"), " x", False, id="wrong"),
    ],
)
def test_scorers(asked: Item, text: str, verdict: bool) -> None:
    assert right(asked, text) is verdict


def test_the_likeliest_ending_by_sum_and_by_length() -> None:
    assert likeliest([(-4.0, 2), (-5.0, 10), (-9.0, 3)]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "good", "bad"),
    [
        ("punctuation:no_comma", {}, "yes and no", "yes, no"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two three"),
        ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"}, "Sun, sun", "sun"),
        ("keywords:letter_frequency", {"letter": "q", "let_frequency": 1, "let_relation": "at least"}, "Queen", "king"),
        ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "category", "a cat"),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
        ("detectable_format:title", {}, "<<Ode>>\nlines", "<<>>"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a"),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a*"),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "Part", "num_sections": 2},
            "Part 1 x Part 2",
            "Part",
        ),
        ("combination:two_responses", {}, "a ****** b", "a ****** a"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "say it: fine", "fine"),
        ("startend:quotation", {}, '"quoted"', '"open'),
        ("startend:end_checker", {"end_phrase": "The end"}, "so, the END", "the end?"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** b", "a *** b *** c"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
            "a\n\nThen, b",
            "a\n\nb",
        ),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "bye\nP.S. x", "bye"),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "AB CD",
            "AB c",
        ),
    ],
)
def test_demands_on_an_answer(name: str, arguments: dict[str, object], good: str, bad: str) -> None:
    assert all_met(good, (Instruction(name, arguments),))
    assert not all_met(bad, (Instruction(name, arguments),))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import socket\nsocket.socket()", id="network"),
        pytest.param("open('/tmp/localai-bench-escape', 'w')", id="writing"),
        pytest.param("open('/etc/passwd').read()", id="reading"),
        pytest.param("import os\nos.system('true')", id="other programs"),
        pytest.param("import subprocess\nsubprocess.run(['true'])", id="child processes"),
        pytest.param("x = bytearray(2**31)", id="memory"),
        pytest.param("import os\nos._exit(0)", id="leaving early"),
        pytest.param("raise SystemExit(0)", id="leaving quietly"),
        pytest.param("print('localai-bench-done')\nassert False", id="pretending"),
    ],
)
def test_what_a_model_writes_is_held_back(program: str) -> None:
    assert not passes(program)


def test_a_program_without_end_is_ended() -> None:
    assert passes("import math, re, collections\nassert math.gcd(4, 6) == 2")
    assert not passes("while True: pass", seconds=1.0)


# -- published sets

GSM = [{"question": f"What is {n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"} for n in range(5)]
ARC = {"id": "a", "question": {"stem": "Sky?", "choices": [{"text": "blue", "label": "A"}]}, "answerKey": "A"}
IFEVAL = {"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"relation": None}]}
FOREIGN = {"prompt": "Hi", "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
HUMAN = {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n"}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("kind", "name", "content", "count"),
    [
        ("gsm8k", "test.jsonl", lines(*GSM), 2),
        ("bbh", "navigate.json", json.dumps({"examples": [{"input": "a", "target": "b"}] * 5}), 2),
        ("humaneval", "h.jsonl", lines(HUMAN), 1),
        ("ifeval", "input.jsonl", lines(IFEVAL, FOREIGN), 1),
        ("arc", "arc.jsonl", lines(ARC), 1),
        ("mmlu", "law_test.csv", '"One, two?",a,b,c,d,C\n', 1),
        ("mmlu", "m.jsonl", lines({"question": "Q", "choices": ["a", "b"], "answer": 1}), 1),
    ],
)
def test_published_formats(tmp_path: Path, kind: str, name: str, content: str, count: int) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(content.encode()))
    suite = load_tasks([f"{kind}={path}"], tmp_path)
    assert len(suite.items) == count
    assert str(tmp_path) not in suite.source


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        pytest.param("gsm8k=x.jsonl", '{"question": "a"}\n{bad', "line 2, is no JSON", id="cut off"),
        pytest.param("gsm8k=x.jsonl", lines(*GSM, {"question": "a"}), "row 6 is no gsm8k question", id="other shape"),
        pytest.param("bbh=x.json", '{"examples": 3}', "neither a list nor", id="no list"),
        pytest.param("mmlu=x.csv", "", "no questions", id="empty"),
        pytest.param("mmlu=missing.csv", None, "cannot be read", id="missing"),
        pytest.param("gsm8k=.", None, "is a folder", id="a folder"),
        pytest.param("quiz=x.csv", "", "is no task", id="unknown kind"),
        pytest.param("arc=hf:nowhere", None, "names no file of a hub", id="no hub file"),
    ],
)
def test_bad_task_files_are_named(tmp_path: Path, task: str, content: str | None, message: str) -> None:
    kind, _, name = task.partition("=")
    if content is not None:
        (tmp_path / name).write_text(content)
    place = name if name.startswith("hf:") else str(tmp_path / name)
    with pytest.raises(BadRequest, match=message):
        load_tasks([f"{kind}={place}"], tmp_path)


@needs_data
def test_the_sets_as_published() -> None:
    tasks = [f"bbh={path}" for path in sorted((DATA / "bbh").glob("*.json"))]
    suite = load_tasks([*tasks, f"humaneval={DATA / 'humaneval/HumanEval.jsonl.gz'}"], DATA)
    assert len(suite.items) == 6 * 247 + 164
    assert len(suite.categories) == 7


@needs_data
def test_published_solutions_pass_their_tests() -> None:
    path = DATA / "humaneval/HumanEval.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][:6]
    items = load_tasks([f"humaneval={path}"], path.parent).items
    for asked, published in zip(items, rows, strict=False):
        assert right(asked, published["canonical_solution"])
        assert not right(asked, "    return None\n")


# -- statistics


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (8, 0, 0.0078125), (1, 9, 0.021484375)])
def test_changed_answers_have_their_chance(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


@pytest.mark.parametrize(("good", "total"), [(0, 10), (6, 40), (10, 10)])
def test_wilson_covers_what_it_says(good: int, total: int) -> None:
    found = wilson(good, total)
    assert found.low is not None
    assert found.high is not None
    assert 0.0 <= found.low <= found.value == good / total <= found.high <= 1.0
    # The defining equation of the score interval, at a bound that is not cut off.
    bound = found.high if good < total else found.low
    assert abs(found.value - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / total) ** 0.5, rel=1e-3)


def test_bootstrap_intervals_cover_the_truth() -> None:
    rng, covered = np.random.default_rng(5), 0
    for trial in range(60):
        joules = rng.gamma(4.0, 0.5, 60)
        columns = np.column_stack([rng.random(60) < 0.4, joules]).astype(np.float64)
        found = bootstrap(columns, ratio, seed=trial)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.4 / 2.0 <= found.high
    assert covered >= 51


def test_a_pair_is_told_apart_by_its_own_questions(tmp_path: Path) -> None:
    found = made(tmp_path, {"good": (0.8, 1.0), "half": (0.4, 2.0), "twin": (0.8, 1.0)})
    verdicts = {(p.a.split()[0], p.b.split()[0]): p.separate for p in found.pairs}
    assert found.results[-1].config.startswith("half")
    assert {frozenset(k): v for k, v in verdicts.items()} == {
        frozenset({"good", "half"}): True,
        frozenset({"twin", "half"}): True,
        frozenset({"good", "twin"}): False,
    }
    assert found.results[0].joules_per_correct is not None
    assert found.results[0].ipj is not None
    assert found.results[0].joules_per_correct.value == pytest.approx(1 / found.results[0].ipj.value)


@pytest.mark.parametrize(
    ("questions", "threads", "names", "apart"),
    [
        (ENOUGH, (2, 2), ("a", "b"), True),
        (ENOUGH - 1, (2, 2), ("a", "b"), False),
        (ENOUGH, (1, 2), ("a", "b"), False),
        (ENOUGH, (1, 2), ("a t1", "a t2"), True),
    ],
    ids=["enough", "too few", "threads were taken away", "threads were asked for"],
)
def test_what_a_neighbour_or_chance_decides_is_not_told_apart(
    questions: int, threads: tuple[int, int], names: tuple[str, str], apart: bool
) -> None:
    rows, blocks = [], []
    for name, joules, count in zip(names, (1.0, 3.0), threads, strict=True):
        rows += [row(name, f"{n}", joules=joules, correct=n % 2 == 0) for n in range(questions)]
        blocks.append(Block(config=name, round=0, seconds=1.0, warmup=3, steady=True, threads=count))
    (pair,) = pairs(rows, results(rows, blocks))
    assert pair.separate is apart


def test_modelled_is_never_ranked_against_measured() -> None:
    rows = [row("a", f"{n}", quality="measured", joules=9.0) for n in range(20)]
    rows += [row("b", f"{n}", quality="modelled", joules=0.1) for n in range(20)]
    rows += [row("c", f"{n}", quality="none", joules=None, reason="rapl.0 is gone") for n in range(20)]
    found = results(rows, [])
    assert [(r.config, r.rank) for r in found] == [("a", 1), ("b", 1), ("c", None)]
    assert found[2].ipj is None
    assert found[2].why_missing == "rapl.0 is gone"
    assert all(pair.ipj_ratio is None for pair in pairs(rows, found))
    best = oracle(rows, found)
    assert best is not None
    assert best.joules is None
    assert len(pareto.by_quality(found)) == 2


def test_the_oracle_takes_the_cheapest_that_is_right() -> None:
    rows = [row("cheap", "1", joules=1.0), row("cheap", "2", joules=1.0, correct=False)]
    rows += [row("dear", "1", joules=5.0), row("dear", "2", joules=5.0)]
    found = oracle(rows, results(rows, []))
    assert found is not None
    assert (found.accuracy.value, found.joules, found.best, found.best_joules) == (1.0, 3.0, "dear", 5.0)


def test_a_sensor_that_vanished_shows_as_coverage() -> None:
    rows = [row("a", f"{n}") for n in range(3)]
    rows.append(row("a", "3", joules=None, quality="none", reason="nvml0 is gone", correct=False))
    found = results(rows, [])[0]
    assert (found.coverage, found.quality, found.why_missing) == (0.75, "modelled", "nvml0 is gone")
    assert found.ipj == Estimate(1.0, 1.0, 1.0)


# -- journal


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    suite, config = generated("quick", 1), configuration("m")
    first = journal.begin(tmp_path, head(suite, [config]))
    first.write(row(config.key, "1"), block(config.key, 0), row(config.key, "2", round=1))
    with pytest.raises(Conflict, match="running already"):
        journal.unfinished(tmp_path, first.head.plan)
    first.close()
    with first.path.open("ab") as file:
        file.write(b'{"type":"row","conf')
    again = journal.unfinished(tmp_path, first.head.plan)
    assert again is not None
    assert again.done == {(config.key, 0)}
    again.write(row(config.key, "2", round=1), block(config.key, 1))
    again.close()
    entries = journal.read(first.path)
    assert [r.item for r in journal.rows_of(entries)] == ["1", "2"]
    assert sum(isinstance(e, Block) for e in entries) == 2


def test_rounds_turn_the_order() -> None:
    assert config_rounds(["a", "b"], 2) == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]


# -- reports


def test_reports_in_every_form(tmp_path: Path) -> None:
    found = made(tmp_path, {"good": (0.8, 1.0), "b<ad": (0.4, 2.0)})
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.as_json(found)))
    assert report.read(path) == found
    assert ElementTree.fromstring(pareto.svg(found.results)).tag.endswith("svg")
    page, text = tables.page(found), tables.text(found)
    assert "<script" not in page
    assert "b<ad" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "A good onnx (front)" in text
    assert report.as_csv(found).count("\n") == 3


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1}'], ids=["empty", "object", "part"])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(BadRequest, match=r"r\.json is no report"):
        report.read(tmp_path / "r.json")


def test_two_runs_are_compared(tmp_path: Path) -> None:
    truth = {"good": (0.9, 1.0), "bad": (0.3, 3.0), "twin": (0.9, 1.0)}
    first, again = made(tmp_path / "a", truth), made(tmp_path / "b", truth, seed=9)
    found = compare(first, again)
    assert (found.agreeing, found.swapped, found.undecided, found.reservations) == (2, (), 1, ())
    other = made(tmp_path / "c", truth, suite=generated("quick", 2), digest="cd" * 32)
    assert compare(first, other).reservations == ("the questions differ", "some weights differ under the same name")


def test_the_shared_file_holds_figures_only(tmp_path: Path) -> None:
    task = tmp_path / f"{PLANTED}.jsonl"
    planted = [{"question": f"{PLANTED} {n}", "answer": f"{PLANTED} #### {n}"} for n in range(9)]
    task.write_text(lines(*planted))
    suite = load_tasks([f"gsm8k={task}"], tmp_path)
    assert any(PLANTED in item.prompt for item in suite.items)
    found = made(tmp_path, {f"file:{PLANTED}": (0.5, 1.0)}, suite=suite, quant=PLANTED, spec=PLANTED)
    found.versions[PLANTED] = PLANTED
    found.device["cpu"] = f"{PLANTED} processor"
    assert PLANTED in json.dumps(report.as_json(found))
    given = json.dumps(shared(found, {"smollm2-135m-instruct"}))
    assert PLANTED not in given
    assert json.loads(given)["results"][0]["accuracy"]["value"] == found.results[0].accuracy.value


def test_watching_the_idle_machine_ends_whatever_its_sensors_say() -> None:
    def gone() -> int:
        raise FileNotFoundError

    spec = Spec(id="lost", scope="cpu_package", method="counter", period_s=0.1, covers="")
    found = surroundings.idle("before", (CounterSensor(spec, gone, 1.0),), 0.05)
    assert (found.watts, "is gone" in found.reason) == ({"lost": None}, True)
    unseen = surroundings.idle("before", (), 600.0)
    assert (unseen.watts, unseen.reason) == ({}, "no energy sensor here")


def test_what_was_answered_before_tells_nothing_of_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as progress:
        progress.resume(90)
        progress.stage("going on")
    assert "going on (90 of 100)" in capsys.readouterr().err
