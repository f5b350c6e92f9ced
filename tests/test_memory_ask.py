"""One question over many documents, asked of a real daemon: parts, parents, joules, and its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from localai.energy.figures import Energy
from localai.inquiry import Inquiry
from localai.messages import Message, Summary, TurnRequest
from tests.daemon_fixture import Daemon, running, wait_for
from tests.turn_events import TIMES

ROUTE = "/localai/memory"
FILLER = "The committee met in the town hall and spoke at length about the weather of that year. "


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(LOCALAI_CPU_WATTS="10") as started:
        for number in range(9):
            text = f"Report {number} on the lighthouse of Brisk. {FILLER * 12} The lamp was cleaned {number} times."
            source = {"kind": "file", "name": f"report-{number}.md"}
            body = {"text": text, "namespace": "brisk", "source": source}
            assert started.ask("POST", ROUTE, body, unix=True).status == 200
        yield started


def asked(daemon: Daemon, **fields: Any) -> Any:
    body: dict[str, Any] = {
        "query": "How often was the lamp of the lighthouse of Brisk cleaned?",
        "memory": "brisk",
        "max_tokens": 24,
    }
    body |= {"model": daemon.echo("ask.echo", 2)}
    return daemon.ask("POST", f"{ROUTE}/ask", {**body, **fields}, unix=True)


def test_every_part_is_a_query_of_its_own_with_its_joules(daemon: Daemon) -> None:
    answer = asked(daemon).json
    told = answer["ask"]
    stages = [part["stage"] for part in told["parts"]]
    assert told["read"] == told["batches"] == stages.count("read") > 1
    assert told["stopped"] == ""
    assert all(part["joules"] > 0 for part in told["parts"])
    assert told["joules"] == pytest.approx(sum(part["joules"] for part in told["parts"]), rel=1e-3)
    assert answer["usage"]["energy"]["joules"] == pytest.approx(told["joules"], rel=1e-3)
    assert answer["choices"][0]["message"]["content"].strip()
    requests = {part["request"] for part in told["parts"]}
    rows = wait_for(lambda: [r for r in daemon.rows("queries") if r["request"] in requests and r["finish"]])
    assert {row["parent"] for row in rows} == {answer["id"].rpartition("-")[2]}


def test_it_stops_early_and_says_so(daemon: Daemon) -> None:
    whole = asked(daemon).json["ask"]
    dear = max(part["joules"] for part in whole["parts"])
    limit = 1.5 * dear
    answer = asked(daemon, max_joules=limit).json
    told = answer["ask"]
    assert 0 < told["read"] < told["batches"]
    assert "batches were read" in told["stopped"]
    assert answer["usage"]["energy"]["stopped"] == told["stopped"]
    assert told["joules"] <= 1.25 * limit


def test_an_answer_that_joules_cut_short_is_said_to_be() -> None:
    inquiry = Inquiry(TurnRequest(kind="chat", model="m", messages=(Message("user", "why?"),), max_joules=1.0))
    spent = Energy(joules=1.1, stopped="max_joules 1 is reached")
    summary = Summary(prompt_tokens=9, cached_tokens=0, completion_tokens=0, timings=TIMES, energy=spent)
    inquiry.note("answer", "r", summary, True)
    assert inquiry.as_json()["stopped"] == "max_joules 1 is reached, in the answer"
    assert inquiry.energy is not None
    assert inquiry.energy.stopped == inquiry.stopped


def test_the_command_prints_one_object(daemon: Daemon) -> None:
    options = ("-m", daemon.echo("ask.echo", 2), "--passages", "2", "--max-tokens", "8", "--json")
    done = daemon.cli("memory", "ask", "Where is Brisk?", "-n", "brisk", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ask"]["batches"] == found["ask"]["read"] == 1
    assert [part["stage"] for part in found["ask"]["parts"]] == ["answer"]
    assert len(found["memories"]) == 2
    assert found["finish_reason"] == "length"
    plain = daemon.cli("memory", "ask", "Where is Brisk?", "-n", "brisk", *options[:-1])
    assert plain.stdout.strip() == found["text"].strip()
    assert "cut at the token limit" in plain.stderr


def test_an_answer_without_a_limit_of_its_own_has_one(daemon: Daemon) -> None:
    answer = asked(daemon, model=daemon.echo("endless.echo", 0), passages=5, max_tokens=None).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 512


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"memory": "nowhere"}, 404), ({"query": ""}, 400), ({"passages": 0}, 400), ({"max_joules": -1}, 400)],
    ids=["nothing known", "empty", "no passages", "negative joules"],
)
def test_wrong_use_is_refused(daemon: Daemon, fields: dict[str, Any], status: int) -> None:
    answer = asked(daemon, **fields)
    assert answer.status == status
    assert answer.error["message"]


def test_it_is_not_served_on_loopback(daemon: Daemon) -> None:
    assert daemon.ask("POST", f"{ROUTE}/ask", {"query": "x"}).status == 403
