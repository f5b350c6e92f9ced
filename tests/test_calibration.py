"""Measuring engines in real children: what is kept, what is marked, and staying out of the way of requests."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backends.contract import Load
from backends.handle import EngineHandle
from localai.agreement import compare, perplexity
from localai.calibrate import Calibrator
from localai.calibration_store import FILE, CalibrationStore, Record, Scores, Subject, identity
from localai.catalog import Catalog
from localai.choice import Choice
from localai.config import Config
from localai.device import inspect
from localai.errors import EngineFailed, OutOfResources
from localai.laboratory import PASSES, Candidate, Laboratory, Limits, disturbed
from localai.ladder import climb
from localai.library import Library
from localai.local_model import LocalModel
from localai.measuring import Pass, Steps, measure
from localai.orders import Orders, shape
from localai.readings import Phase, Reading
from localai.tested import TestedSettings
from tests.engine_runs import STARTER, echo_file, order

SUBJECT = Subject("device", "digest", "echo", "built in")


def echo_model(path: Path) -> LocalModel:
    return LocalModel(
        id=f"echo:{path.name}",
        path=path,
        files=(path,),
        origin="file",
        size_bytes=0,
        digest=None,
        spec=None,
        repo=None,
        header=None,
        problem=None,
        format="echo",
    )


class Bench:
    """A laboratory in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tested = TestedSettings(home / "tested.json")
        self.store = CalibrationStore(home)
        self.orders = Orders(Config(home=home, threads=2), inspect(home))
        # On a busy machine all takes longer, and must be measured all the same.
        self.laboratory = Laboratory(self.orders, self.tested, self.store, Limits(120.0, 400.0, 170.0))

    def model(self, first_line: str) -> LocalModel:
        return echo_model(echo_file(self.home, first_line))

    async def once(self, first_line: str) -> Record:
        candidate = self.laboratory.next(self.model(first_line))
        assert candidate is not None
        record = await self.laboratory.run_pass(candidate, 2**34)
        assert record is not None
        return record


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_pass_measures_every_kind_of_step(bench: Bench) -> None:
    record = await bench.once("5")
    assert not record.verdict
    points = {(r.phase, r.sequences, r.depth >= 512) for r in record.readings}
    assert points >= {
        ("load", 1, False),
        ("prefill", 1, False),
        ("prefill", 1, True),
        ("decode", 1, False),
        ("decode", 8, False),
        ("decode", 1, True),
        ("embed", 1, False),
    }
    decode = [r.seconds for r in record.readings if r.phase == "decode"]
    # A busy machine makes steps longer, and none of them ten times as long.
    assert all(seconds >= 0.005 for seconds in decode)
    assert min(decode) < 0.05
    assert record.fidelity is not None
    assert record.rss > 2**20
    assert bench.store.readings(bench.orders.device.fingerprint) == list(record.readings)


async def test_after_all_passes_nothing_is_due(bench: Bench) -> None:
    for number in range(PASSES):
        assert (await bench.once("0")).passes == number + 1
    model = bench.model("0")
    assert bench.laboratory.next(model) is None
    bench.store.forget(bench.orders.device.fingerprint, identity(model))
    assert bench.laboratory.next(model) is not None


async def test_what_was_measured_beside_others_is_measured_anew_later(bench: Bench) -> None:
    model = bench.model("0")
    subject = (await bench.once("0")).subject
    for at, due in ((time.time(), False), (time.time() - 4000, True)):
        disturbed = Record(subject=subject, name="m", passes=3, foreign=1.0, at=at)
        bench.store.update(subject, "m", lambda _, new=disturbed: new)  # type: ignore[misc]
        assert (bench.laboratory.next(model) is not None) == due
    assert (await bench.once("0")).passes == 1


@pytest.mark.parametrize(
    ("first_line", "said"),
    [
        pytest.param("0 crash-always", "died|every setting", id="dies always"),
        pytest.param("0 nan", "not numbers", id="no numbers"),
    ],
)
async def test_what_crashes_or_lies_is_marked_and_not_tried_again(bench: Bench, first_line: str, said: str) -> None:
    record = await bench.once(first_line)
    assert re.search(said, record.verdict)
    assert bench.laboratory.next(bench.model(first_line)) is None
    assert bench.store.readings(bench.orders.device.fingerprint) == []


async def test_a_setting_that_dies_gives_way_to_one_that_lives(bench: Bench) -> None:
    record = await bench.once("0 crash-decode")
    assert not record.verdict
    assert any(r.phase == "decode" and r.depth > 512 for r in record.readings)


@pytest.mark.parametrize(
    ("memory", "seconds", "said"),
    [pytest.param(2**20, 100.0, "1 MiB were allowed", id="memory"), pytest.param(2**34, 0.3, "not done", id="time")],
)
async def test_a_child_beyond_its_limits_is_ended(tmp_path: Path, memory: int, seconds: float, said: str) -> None:
    seen = Steps()

    async def start(steps: Steps) -> EngineHandle:
        load = order(echo_file(tmp_path, "30"))
        handle = await EngineHandle.start(
            load, log=tmp_path / "log", on_stage=lambda *_: None, on_step=steps, on_pid=steps.note_pid
        )
        seen.note_pid(steps.pid)
        return handle

    with pytest.raises(EngineFailed, match=said):
        await measure(start, _reading, threads=1, memory=memory, seconds=seconds, enough=9, whole=True, score=False)
    assert not seen.pid or not psutil.pid_exists(seen.pid)


def _reading(
    threads: int, phase: Phase, tokens: int, depth: int, sequences: int, seconds: float, cpu_s: float
) -> Reading:
    model = echo_model(Path("none"))
    return Reading("b", "x", "", threads, "f16", shape(model), phase, tokens, depth, sequences, seconds, cpu_s, 0.0)


async def test_two_engines_read_the_text_alike(tmp_path: Path) -> None:
    found: dict[str, Pass] = {}
    for backend in ("llama.cpp", "onnx"):
        load = order(STARTER, backend, n_ctx=1024, n_seq=4, rates={1: 1.0}, cache=str(tmp_path / "cache"))

        async def start(steps: Steps, load: Load = load) -> EngineHandle:
            return await EngineHandle.start(load, log=tmp_path / "log", on_stage=lambda *_: None, on_step=steps)

        found[backend] = await measure(
            start, _reading, threads=1, memory=2**34, seconds=170, enough=170, whole=False, score=True
        )
    ours, reference = found["onnx"].scores, found["llama.cpp"].scores
    assert ours is not None
    assert reference is not None
    fidelity, wrong = compare(ours, reference)
    assert wrong == ""
    assert fidelity.ratio == pytest.approx(1.0, abs=0.02)
    assert fidelity.agreement is not None
    assert fidelity.agreement > 0.93


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({}, "", id="the same"),
        pytest.param({"surprise": 330.0}, r"\+35\.0 %", id="another perplexity"),
        pytest.param({"likeliest": (7,) * 80 + (1,) * 20}, "20 % of the likeliest", id="other tokens"),
        pytest.param({"ids": (9,)}, "other tokens than llama.cpp", id="another tokenizer"),
    ],
)
def test_who_lies(change: dict[str, object], said: str) -> None:
    reference = Scores((1, 2), 300.0, (1,) * 100)
    _, wrong = compare(replace(reference, **change), reference)  # type: ignore[arg-type]
    assert (wrong == "") == (said == "")
    assert re.search(said, wrong)
    assert perplexity(reference) == pytest.approx(math.exp(3))


# -- in the background


class Watched:
    """A calibrator over an echo model, and a switch that says whether a request runs."""

    def __init__(self, bench: Bench) -> None:
        self.busy = False
        self.calibrator = Calibrator(bench.tested, bench.laboratory, lambda: self.busy, free=lambda: 2**34, idle_s=0.05)


@pytest.fixture
async def watched(bench: Bench) -> AsyncIterator[Watched]:
    made = Watched(bench)
    yield made
    await made.calibrator.close()


async def test_a_request_ends_a_measurement_at_once_and_it_goes_on_later(bench: Bench, watched: Watched) -> None:
    model = bench.model("2")
    choice = Choice(model, "echo", 0, "")
    load = bench.orders.order(choice, bench.orders.plan(choice, 2**34))
    key, log = bench.orders.key(choice), bench.orders.log_file(model)
    rung = await climb(load, key, bench.tested, log=log, on_stage=lambda *_: None, on_step=lambda _: None)
    await rung.handle.stop()
    # Daemons of other tests may be children of this process too.
    others = children()
    watched.calibrator.want(model, rung, size=2**40)
    await until(lambda: bool(children() - others))
    watched.busy = True
    await until(lambda: not children() - others)
    # It was ended, not done.
    assert bench.store.records(bench.orders.device.fingerprint) == []
    watched.busy = False
    await until(lambda: bool(bench.store.records(bench.orders.device.fingerprint)), 150)


class Crowded(Laboratory):
    """llama.cpp cannot be measured now: other programs keep it from ending, or it has no room."""

    room = True

    async def run_pass(self, candidate: Candidate, free: int, *, most_foreign: float = math.inf) -> Record | None:
        if candidate.choice.backend != "llama.cpp":
            return self.store.update(candidate.subject, "m", lambda old: replace(old, passes=PASSES))
        if self.room:
            return None
        raise OutOfResources("no room", "make some")


@pytest.mark.parametrize("room", [True, False], ids=["late", "too large"])
async def test_what_cannot_be_measured_now_holds_no_other_up(bench: Bench, room: bool) -> None:
    model = Library(bench.home, Catalog.load(bench.home)).resolve("starter")
    laboratory = Crowded(bench.orders, bench.tested, bench.store)
    laboratory.room = room
    others = {candidate.subject for candidate in laboratory.candidates(model)[1:]}
    calibrator = Calibrator(bench.tested, laboratory, lambda: False, free=lambda: 2**34, idle_s=0.01)
    # A model of this size has its engine loaded for no other measurement.
    calibrator.want(model, None, size=2**40)  # type: ignore[arg-type]
    await until(lambda: others <= {r.subject for r in bench.store.records(bench.orders.device.fingerprint)})
    await calibrator.close()
    assert others


def children() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children()}


async def until(holds: object, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.02)


# -- the store


def record(**fields: object) -> Record:
    return Record(**({"subject": SUBJECT, "name": "m", "passes": 1} | fields))  # type: ignore[arg-type]


def test_records_are_found_again_by_another_process_object(tmp_path: Path) -> None:
    made = CalibrationStore(tmp_path).update(SUBJECT, "m", lambda old: replace(old, verdict="bad", at=1.0))
    assert CalibrationStore(tmp_path).record(SUBJECT) == made
    assert CalibrationStore(tmp_path).records("device", "another") == []


def test_another_build_is_measured_anew_and_takes_the_place(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    newer = replace(SUBJECT, build="built later")
    store.update(SUBJECT, "m", lambda old: replace(old, passes=3))
    assert store.record(newer) is None
    store.update(newer, "m", lambda old: replace(old, passes=1))
    assert [r.subject.build for r in store.records("device")] == ["built later"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 99, "records": []}', b'{"records": [{"subject": 3}]}'])
def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    store = CalibrationStore(tmp_path)
    assert store.records("device") == []
    assert (tmp_path / f"{FILE}.corrupt").read_bytes() == content
    store.update(SUBJECT, "m", lambda old: replace(old, passes=1))
    assert len(store.records("device")) == 1


def test_an_unreadable_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(OutOfResources, match=FILE):
        CalibrationStore(tmp_path).records("device")


def test_the_same_bytes_have_one_identity_wherever_they_lie(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, content in zip(paths, (b"x" * 3_000_000, b"x" * 3_000_000, b"x" * 2_999_999 + b"y"), strict=True):
        path.write_bytes(content)
    first, second, third = (identity(echo_model(path)) for path in paths)
    assert first == second != third
    assert identity(replace(echo_model(paths[0]), digest="abc")) == "abc"


@pytest.mark.parametrize(
    ("verdict", "foreign", "most", "tells_nothing"),
    [
        pytest.param("", 0.1, 0.3, False, id="quiet"),
        pytest.param("", 0.6, 0.3, True, id="beside others"),
        pytest.param("it was not done within 28 s", 1.5, math.inf, True, id="late, beside others"),
        pytest.param("it was not done within 28 s", 0.1, 0.3, False, id="late by itself"),
        pytest.param("its process died 3 times while it was measured", 1.5, 0.3, False, id="died"),
    ],
)
def test_no_engine_is_blamed_for_a_busy_machine(verdict: str, foreign: float, most: float, tells_nothing: bool) -> None:
    assert disturbed(verdict, foreign, most) is tells_nothing
