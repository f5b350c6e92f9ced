"""Answers that go round in circles end, and say why; what only looks alike goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.repetition import LEAST, cycle
from tests.daemon_fixture import Daemon, Json, running

ROUND = "to be, or not to be; "
"""21 tokens of the echo engine, which repeats its prompt byte by byte."""
ENDLESS = ROUND * 60


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        pytest.param([7] * LEAST, 1, id="one token"),
        pytest.param([1, 2, 3] * 400, 3, id="a few"),
        pytest.param([9] * 99 + list(range(64)) * 8, 64, id="the longest, eight times"),
        pytest.param([7] * (LEAST - 1), None, id="not for long enough"),
        pytest.param(list(range(65)) * 20, None, id="too long a cycle"),
        pytest.param([7] * 300 + [8] + [7] * 300, None, id="something else in between"),
        pytest.param([t for row in range(200) for t in (1, 2, 100 + row, 3)], None, id="a table with numbered rows"),
        pytest.param([7] * 2000 + [8], None, id="it has found its way out"),
    ],
)
def test_only_an_exact_cycle_counts(tokens: list[int], found: int | None) -> None:
    assert cycle(tokens) == found


@pytest.fixture(scope="module")
def guarded() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def _messages(daemon: Daemon, path: str, **fields: Any) -> Json:
    body = {"model": daemon.echo("a.echo", 0), "messages": [{"role": "user", "content": ENDLESS}], "stream": False}
    answer = daemon.ask("POST", path, {**body, **fields}, unix=True)
    assert answer.status == 200
    found: Json = answer.json
    return found


def test_an_endless_answer_ends_and_says_why(guarded: Daemon) -> None:
    answer = _messages(guarded, "/v1/chat/completions")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert LEAST <= answer["usage"]["completion_tokens"] < LEAST + 100
    assert "repeated the same 21 tokens at least 24 times" in answer["timings"]["stopped"]


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/v1/messages", {"max_tokens": 4000}, ("stop_reason", "max_tokens")),
        ("/api/chat", {}, ("done_reason", "length")),
        ("/v1/responses", {"input": ENDLESS}, ("status", "incomplete")),
        ("/completion", {"prompt": ENDLESS}, ("stop_type", "limit")),
    ],
    ids=["anthropic", "ollama", "responses", "llama-server"],
)
def test_every_dialect_says_so(guarded: Daemon, path: str, fields: Json, reason: tuple[str, str]) -> None:
    answer = _messages(guarded, path, **fields)
    assert answer[reason[0]] == reason[1]
    assert "repeated the same 21 tokens" in json.dumps(answer)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"repetition_stop": False}, id="the request says so"),
        pytest.param({"ignore_eos": True, "max_tokens": 1200}, id="no end was wanted"),
        pytest.param({"max_tokens": 1200, "regex": "[a-z,; ]*"}, id="a grammar asks for it"),
    ],
)
def test_whoever_wants_it_gets_all_of_it(guarded: Daemon, fields: Json) -> None:
    answer = _messages(guarded, "/v1/chat/completions", **fields)
    assert answer["usage"]["completion_tokens"] >= 1200
    assert answer["timings"]["stopped"] == ""


def test_people_are_told(guarded: Daemon, tmp_path: Path) -> None:
    asked = ("ask", ENDLESS, "-m", guarded.echo("a.echo", 0))
    done = guarded.cli(*asked)
    assert (done.returncode, "it repeated the same 21 tokens" in done.stderr) == (0, True)
    told = json.loads(guarded.cli(*asked, "--json").stdout)
    assert "it repeated" in told["timings"]["stopped"]


def test_a_setting_switches_it_off() -> None:
    with running(LOCALAI_REPETITION_STOP="off") as daemon:
        answer = _messages(daemon, "/v1/chat/completions")
    assert answer["usage"]["completion_tokens"] == len(ENDLESS)
