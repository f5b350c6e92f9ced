"""Keys and values in fewer bits: what they cost here, when they are taken, and who is told."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from backends.contract import StepRecord
from backends.gguf import read_header
from backends.handle import EngineHandle
from localai.agreement import PROSE
from localai.budget import charge
from localai.calibrate import Calibrator
from localai.calibration_store import CalibrationStore, KvReading, Record, Subject, identity
from localai.catalog import Catalog
from localai.choice import Choice
from localai.config import Config
from localai.device import inspect
from localai.errors import OutOfResources
from localai.kv_accuracy import Key, KvCost, costs_here, kv_costs
from localai.kv_choice import choose_kv, kv_types
from localai.kv_trials import KvTrials
from localai.laboratory import PASSES, Laboratory
from localai.ladder import Rung
from localai.library import Library
from localai.local_model import LocalModel
from localai.orders import Orders, Plan
from localai.tested import Setting, TestedSettings
from tests.daemon_fixture import running
from tests.engine_runs import STARTER, ask, order

MIB = 2**20
LLAMA = Subject("device", "digest", "llama.cpp", "build")
WISH = 8192


def reading(kv_type: str, surprise: float = 3.0, alike: int = 200, **fields: object) -> KvReading:
    """Of 200 tokens, `alike` of which are likeliest as everybody says."""
    made = {
        "subject": LLAMA,
        "kv_type": kv_type,
        "ids": tuple(range(201)),
        "surprises": tuple(surprise + 0.01 * (place % 2) for place in range(200)),
        "likeliest": (1,) * alike + (2,) * (200 - alike),
        "step_s": 0.01,
    }
    return KvReading(**(made | fields))  # type: ignore[arg-type]


def test_types_are_compared_token_by_token_with_the_most_faithful_one() -> None:
    noisy = tuple(3.02 + 0.5 * (place % 2) - 0.25 for place in range(200))
    found = kv_costs([reading("f16"), reading("q8_0", surprises=noisy, alike=150, step_s=0.02)])
    base, eight = found["llama.cpp", "", "f16"], found["llama.cpp", "", "q8_0"]
    assert (base.perplexity, base.agreement, base.tps) == (0.0, 100.0, 100.0)
    assert eight.perplexity == pytest.approx(1.5, abs=0.1)
    assert eight.error > 1
    assert eight.least < eight.perplexity < eight.most
    assert (eight.agreement, eight.tps, eight.speed, eight.against) == (75.0, 50.0, 0.5, "f16")
    assert ("llama.cpp", "", "q4_0") not in found


@pytest.mark.parametrize(
    ("base", "own", "said"),
    [
        pytest.param({}, {"problem": "it died"}, "it died", id="failed"),
        pytest.param({"problem": "no room"}, {}, "no room", id="nothing to compare with"),
        pytest.param({}, {"surprises": (3.0,) * 20}, "too little", id="too few tokens"),
        pytest.param({}, {"ids": tuple(range(1, 202))}, "too little", id="another text"),
    ],
)
def test_what_cannot_be_compared_says_why(base: dict[str, object], own: dict[str, object], said: str) -> None:
    cost = kv_costs([reading("f16", **base), reading("q8_0", **own)])["llama.cpp", "", "q8_0"]  # type: ignore[arg-type]
    assert said in cost.problem
    assert said in cost.words


# -- the choice


def costs(**percent: tuple[float, float]) -> dict[Key, KvCost]:
    """Of each type, the change of perplexity and its error."""
    return {("llama.cpp", "", k): KvCost(k, "f16", perplexity=v, error=e) for k, (v, e) in percent.items()}


def needs(kv_type: str) -> int:
    return charge(read_header(STARTER), WISH, kv_type).total


@pytest.mark.parametrize(
    ("setting", "known", "fits", "taken", "said"),
    [
        pytest.param("auto", {}, "f16", "f16", "", id="the most faithful where it fits"),
        pytest.param("auto", {}, "q8_0", "q8_0", "not measured yet", id="8 bits where not"),
        pytest.param("auto", {}, "q4_0", "", "not taken before its accuracy is measured", id="4 bits unmeasured"),
        pytest.param("auto", costs(q4_0=(0.5, 0.1)), "q4_0", "q4_0", r"by \+0.5 ± 0.2 %", id="4 bits cheap"),
        pytest.param("auto", costs(q4_0=(1.5, 1.0)), "q4_0", "", "more than kv_loss", id="4 bits perhaps dear"),
        pytest.param("auto", costs(q8_0=(1.5, 1.0)), "q8_0", "q8_0", r"\+1.5 ± 1.6 %", id="8 bits perhaps dear"),
        pytest.param("auto", costs(q8_0=(9, 1), q4_0=(1, 0.1)), "q8_0", "q4_0", "", id="8 bits shown to be dear"),
        pytest.param("f16", costs(q4_0=(0.0, 0.1)), "q8_0", "", "raise the budget", id="what is set wins"),
        pytest.param("q4_0", costs(q4_0=(90, 1)), "f16", "q4_0", "", id="what is set wins, dear as it is"),
    ],
)
def test_the_type_follows_the_budget(setting: str, known: dict[Key, KvCost], fits: str, taken: str, said: str) -> None:
    header = read_header(STARTER)
    types = kv_types(setting, header, known, most_loss=2.0)
    if not taken:
        with pytest.raises(OutOfResources) as caught:
            choose_kv(types, header, WISH, needs(fits))
        assert said in caught.value.hint
        return
    found = choose_kv(types, header, WISH, needs(fits))
    assert (found.kv_type, found.n_ctx) == (taken, WISH)
    if setting == "auto" and taken != "f16":
        assert "8192 tokens would take" in found.reason
        assert re.search(said, found.reason)
    else:
        assert found.reason == ""


def test_without_a_wish_the_longest_context_decides() -> None:
    header = read_header(STARTER)
    found = choose_kv(kv_types("auto", header, {}, 2.0), header, 0, needs("q8_0"))
    assert (found.kv_type, found.n_ctx) == ("q8_0", WISH)
    short = choose_kv(kv_types("auto", header, {}, 2.0), header, 0, charge(header, 512, "f16").total)
    assert (short.kv_type, short.n_ctx) == ("f16", 512)


def test_an_idle_engine_goes_before_a_coarser_type_is_taken() -> None:
    assert not Plan(512, 100, kv_type="q8_0").as_good_as(Plan(512, 100))
    assert Plan(512, 100).as_good_as(Plan(512, 100, kv_type="q8_0"))


# -- measuring, with real engines


async def test_a_text_can_be_read_as_answers_are_computed(tmp_path: Path) -> None:
    steps: list[StepRecord] = []
    load = order(STARTER, "llama.cpp", n_ctx=256, n_seq=2, rates={1: 1.0})
    handle = await EngineHandle.start(load, log=tmp_path / "log", on_stage=lambda *_: None, on_step=steps.append)
    try:
        ids = (await handle.tokenize(PROSE, special=False, add_bos=True))[:24]
        prompt = await ask(handle, ids, max_tokens=0, prompt_logprobs=1)
        steps.clear()
        singly = await ask(handle, ids, max_tokens=0, prompt_logprobs=1, singly=True)
    finally:
        await handle.stop()
    assert [share.prefilled for record in steps for share in record.shares] == [1] * len(ids)
    assert [token.id for token in singly.prompt] == [token.id for token in prompt.prompt] == ids[1:]
    apart = [abs((a.logprob or 0) - (b.logprob or 0)) for a, b in zip(singly.prompt, prompt.prompt, strict=True)]
    assert max(apart) < 1.0


class Bench:
    """What measures KV types of the starter in a home of its own, on few tokens."""

    def __init__(self, home: Path) -> None:
        self.device = inspect(home)
        self.store = CalibrationStore(home)
        self.tested = TestedSettings(home / "tested.json")
        self.orders = Orders(Config(home=home, backend="llama.cpp", threads=1), self.device)
        self.trials = KvTrials(self.orders, self.tested, self.store, tokens=66, limit_s=160.0)
        self.model: LocalModel = Library(home, Catalog.load(home)).resolve("starter")


@pytest.mark.timeout(360)
async def test_trials_measure_until_nothing_is_due(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.trials.next(bench.model)
    assert first is not None
    bench.store.keep_kv(reading("q8_0", subject=first.subject))
    seen = []
    while (trial := bench.trials.next(bench.model)) is not None and trial.choice.backend == "llama.cpp":
        seen.append(trial.kv_type)
        assert (await bench.trials.run(trial, 2**34)).problem == ""
    assert seen == ["f16", "q4_0"]
    assert trial is None or trial.choice.backend == "onnx"
    found = costs_here(CalibrationStore(tmp_path), bench.device.fingerprint, bench.model)
    base, four = (found["llama.cpp", "", kv_type] for kv_type in ("f16", "q4_0"))
    assert (base.perplexity, base.agreement) == (0.0, 100.0)
    # A slow machine may read less than it was given.
    assert 64 <= four.tokens <= 66
    assert 60 < four.agreement < 100
    assert abs(four.perplexity) < 30
    assert four.error > 0
    assert four.tps > 0


async def test_what_a_process_died_of_is_kept_and_tried_again_later(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(STARTER.read_bytes()[: 2**20])
    trial = bench.trials.next(bench.model)
    assert trial is not None
    with pytest.raises(OutOfResources):
        await bench.trials.run(trial, 50 * MIB)
    kept = KvReading(subject=trial.subject, kv_type="f16", problem="it died", at=1e12)
    bench.store.keep_kv(kept)
    due = bench.trials.next(bench.model)
    assert due is None or due.choice.backend == "onnx", "there is nothing to compare the others with"
    again = bench.trials.next(bench.model, since=2e12)
    assert again is not None
    assert again.kv_type == "f16"


async def test_the_daemon_measures_them_when_engines_are_measured(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    laboratory = Laboratory(bench.orders, bench.tested, bench.store)
    for candidate in laboratory.candidates(bench.model):
        bench.store.update(candidate.subject, "m", lambda old: replace(old, passes=PASSES))
    first = bench.trials.next(bench.model)
    assert first is not None
    others = (("llama.cpp", "", "f16"), ("llama.cpp", "", "q4_0"), ("onnx", "", "f32"), ("onnx", "kv8", "int8"))
    for name, mode, kv_type in others:
        subject = replace(first.subject, backend=name, build=_build(laboratory, bench.model, name), mode=mode)
        bench.store.keep_kv(replace(reading(kv_type), subject=subject))
    calibrator = Calibrator(bench.tested, laboratory, lambda: False, lambda: 2**34, idle_s=0.05, kv_trials=bench.trials)
    choice = Choice(bench.model, "llama.cpp", 0, "")
    # Nothing is asked of the engine itself: only wait policies of small models would be.
    rung = Rung(None, bench.orders.key(choice), Setting.of())  # type: ignore[arg-type]
    calibrator.want(bench.model, rung, size=2**40)
    try:
        async with asyncio.timeout(120):
            while bench.trials.next(bench.model) is not None:
                await asyncio.sleep(0.1)
    finally:
        await calibrator.close()
    digest = identity(bench.model)
    known = bench.store.kv_readings(bench.device.fingerprint, digest)
    assert {r.kv_type for r in known if r.subject.backend == "llama.cpp" and not r.problem} == {"f16", "q8_0", "q4_0"}
    bench.store.forget(bench.device.fingerprint, digest)
    assert bench.store.kv_readings(bench.device.fingerprint, digest) == []


def _build(laboratory: Laboratory, model: LocalModel, name: str) -> str:
    return next(c.subject.build for c in laboratory.candidates(model) if c.subject.backend == name)


def test_a_newer_build_takes_the_place_and_records_stay(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    store.update(LLAMA, "m", lambda old: replace(old, passes=1))
    store.keep_kv(reading("f16"))
    store.keep_kv(reading("f16", subject=replace(LLAMA, build="newer")))
    assert [r.subject.build for r in store.kv_readings("device", "digest")] == ["newer"]
    assert store.records("device") == [Record(subject=LLAMA, name="m", passes=1)]


# -- what people see


def test_a_long_context_in_a_small_budget_is_served_in_8_bits_and_says_why() -> None:
    budget = (needs("f16") + needs("q8_0")) // 2
    settings = {
        "LOCALAI_RAM": str(budget),
        "LOCALAI_CTX": str(WISH),
        "LOCALAI_BACKEND": "llama.cpp",
        "LOCALAI_THREADS": "1",
    }
    with running(**settings) as daemon:
        answer = daemon.chat("Hello")
        assert answer.status == 200, answer.content
        (engine,) = daemon.engines()
        assert (engine["kv_type"], engine["n_ctx"]) == ("q8_0", WISH)
        assert any("keys and values are stored in q8_0" in note for note in engine["notes"])
        assert "8192 tokens would take" in answer.json["reason"]
        shown = daemon.cli("status")
        assert "context 8192 in q8_0" in shown.stdout
        planned = daemon.cli("models", "plan", "starter", "--json", "--ctx", str(WISH), "--ram", str(budget))
    found = json.loads(planned.stdout)
    assert found["kv_taken"]["kv_type"] == "q8_0"
    assert found["kv_taken"]["reason"] in next(note for note in engine["notes"] if "q8_0" in note)
    rows = {(row["backend"], row["mode"], row["kv_type"]): row for row in found["kv_types"]}
    sizes = [rows["llama.cpp", "", kv_type]["bytes_per_token"] for kv_type in ("f16", "q8_0", "q4_0")]
    assert sizes == [23_040, 12_240, 6_480]
    assert rows["llama.cpp", "", "f16"]["context"] < WISH == rows["llama.cpp", "", "q8_0"]["context"]
    assert rows["llama.cpp", "", "q4_0"]["perplexity_percent"] is None
    assert "--measure" in rows["llama.cpp", "", "q4_0"]["hint"]


def test_what_is_set_is_not_changed_by_a_budget() -> None:
    budget = (needs("f16") + needs("q8_0")) // 2
    settings = {
        "LOCALAI_RAM": str(budget),
        "LOCALAI_CTX": str(WISH),
        "LOCALAI_BACKEND": "llama.cpp",
        "LOCALAI_THREADS": "1",
    }
    with running(**settings, LOCALAI_KV_TYPE="f16", LOCALAI_PAGING="off") as daemon:
        answer = daemon.chat("Hello")
    assert answer.status == 507
    assert "8192 tokens" in answer.error["message"]
