"""The memory of self-tests: verdicts, counting of deaths, and what is left after damage."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.errors import DeathStep
from localai.errors import EngineFailed, OutOfResources
from localai.tested import Key, Setting, TestedSettings, Verdict

KEY = Key("0123456789abcdef", "llama.cpp", "llama-cpp-python 0.3.36 (CPU)", "llama Q4_1")
FAST = Setting.of(extra_bufts=True, kv_type="f16")
SAFE = Setting.of(extra_bufts=False, kv_type="f16")
MAY_2 = 1_777_723_200.0


@pytest.fixture
def tested(tmp_path: Path) -> TestedSettings:
    return TestedSettings(tmp_path / "state" / "tested.json")


def death(step: DeathStep, reason: str = "SIGSEGV") -> Verdict:
    return Verdict("died", reason, step, MAY_2)


@pytest.mark.parametrize(
    ("verdicts", "bad"),
    [
        pytest.param([death("self-test")], True, id="once in the self-test"),
        pytest.param([death("self-test", "SIGKILL")], True, id="killed for memory in the self-test"),
        pytest.param([death("self-test", "stopped")], False, id="stopped on request in the self-test"),
        pytest.param([death("prefill")], False, id="once elsewhere"),
        pytest.param([death("prefill"), death("decode")], False, id="once each on two kinds of step"),
        pytest.param([death("prefill"), death("decode"), death("prefill")], True, id="twice on the same kind of step"),
        pytest.param([death("decode", "SIGKILL"), death("decode", "SIGKILL")], False, id="killed from outside"),
        pytest.param([Verdict("survived"), death("load"), death("load")], True, id="a survivor that turns bad"),
    ],
)
def test_when_a_setting_turns_bad(tested: TestedSettings, verdicts: list[Verdict], bad: bool) -> None:
    outcomes = [tested.record(KEY, FAST, verdict) for verdict in verdicts]
    assert outcomes == [False] * (len(verdicts) - 1) + [bad]
    assert tested.best(KEY, [FAST, SAFE]) == (SAFE if bad else FAST)


def test_untried_survived_and_died_are_told_apart(tested: TestedSettings) -> None:
    assert tested.verdict(KEY, FAST) is None
    tested.record(KEY, FAST, death("self-test"))
    tested.record(KEY, SAFE, Verdict("survived", at=MAY_2))
    assert tested.verdict(KEY, FAST) == death("self-test")
    assert tested.verdict(KEY, SAFE) == Verdict("survived", at=MAY_2)
    assert tested.deaths(KEY, FAST) == {"self-test": 1}


@pytest.mark.parametrize("field", ["device", "engine", "library", "model"])
def test_verdicts_hold_for_their_key_only(tested: TestedSettings, field: str) -> None:
    tested.record(KEY, FAST, death("self-test"))
    names = {name: getattr(KEY, name) for name in ("device", "engine", "library", "model")}
    other = Key(**(names | {field: "another"}))
    assert tested.verdict(other, FAST) is None


def test_all_settings_bad_is_an_error_with_a_hint(tested: TestedSettings) -> None:
    for setting in (FAST, SAFE):
        tested.record(KEY, setting, death("self-test"))
    with pytest.raises(EngineFailed, match="2 tried") as caught:
        tested.best(KEY, [FAST, SAFE])
    assert "localai doctor" in caught.value.hint


def test_explains_in_plain_words(tested: TestedSettings) -> None:
    tested.record(KEY, FAST, death("self-test"))
    tested.record(KEY, SAFE, Verdict("survived"))
    tested.record_threads(KEY, {1: 61.5, 2: 93.4})
    tested.record_threads(KEY, {2: 90.2})
    off, threads = tested.explain(KEY)
    assert off == (
        "AMX tile kernels and weight repacking turned off: the engine process was killed by SIGSEGV in its self-test "
        "on 2026-05-02 (llama-cpp-python 0.3.36 (CPU))"
    )
    assert threads == "threads measured for llama Q4_1, token/s: 1: 62, 2: 90"
    assert tested.threads(KEY) == {1: 61.5, 2: 90.2}
    assert tested.explain_device(KEY.device) == [off, threads]
    assert tested.explain_device("another") == []


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        pytest.param(death("self-test", "exit status 134"), "ended with exit status 134 in its self-test", id="exit"),
        pytest.param(death("self-test", "gave no logits"), "engine process gave no logits in its", id="words"),
        pytest.param(death("decode", "SIGILL"), "was killed by SIGILL twice in decode, first on 2026", id="twice"),
    ],
)
def test_explains_each_kind_of_death(tested: TestedSettings, verdict: Verdict, words: str) -> None:
    tested.record(KEY, FAST, verdict)
    tested.record(KEY, FAST, verdict)
    (line,) = tested.explain(KEY)
    assert line.startswith("setting extra_bufts=True kv_type=f16 turned off: ")
    assert words in line


def test_the_memory_outlives_the_object_and_can_be_cleared(tested: TestedSettings, tmp_path: Path) -> None:
    tested.record(KEY, FAST, death("self-test"))
    path = tmp_path / "state" / "tested.json"
    assert path.stat().st_mode & 0o777 == 0o600
    again = TestedSettings(path)
    assert again.best(KEY, [FAST, SAFE]) == SAFE
    again.clear()
    again.clear()
    assert tested.best(KEY, [FAST, SAFE]) == FAST


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"format":1,"entries":[{"key"', id="cut short"),
        pytest.param(b'{"format":1,"entries":[3]}', id="another shape"),
        pytest.param(b'{"format":99,"entries":[]}', id="a later format"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
    ],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tested.json"
    path.write_bytes(content)
    tested = TestedSettings(path)
    with caplog.at_level(logging.WARNING):
        assert tested.verdict(KEY, FAST) is None
    assert "damaged" in caplog.text
    assert (tmp_path / "tested.json.corrupt").read_bytes() == content
    tested.record(KEY, FAST, Verdict("survived"))
    assert tested.verdict(KEY, FAST) is not None


def test_a_home_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutOfResources, match=r"tested\.json"):
        TestedSettings(tmp_path / "file" / "tested.json").record(KEY, FAST, Verdict("survived"))


def test_processes_do_not_lose_each_others_records(tmp_path: Path) -> None:
    path = tmp_path / "tested.json"
    code = (
        "import sys; from pathlib import Path; from localai.tested import *\n"
        "for turn in range(15):\n"
        "    key = Key(sys.argv[2], 'e', 'l', str(turn))\n"
        "    TestedSettings(Path(sys.argv[1])).record(key, Setting.of(n=1), Verdict('survived'))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    children = [subprocess.Popen([*command, name], env=environment) for name in ("a", "b", "c")]
    assert [child.wait() for child in children] == [0, 0, 0]
    tested = TestedSettings(path)
    keys = [Key(name, "e", "l", str(turn)) for name in "abc" for turn in range(15)]
    assert all(tested.verdict(key, Setting.of(n=1)) for key in keys)
