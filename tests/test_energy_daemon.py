"""Joules where users meet them: answers, headers, streams, the ledger, `localai energy`, /metrics, and budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.daemon_fixture import Daemon, Json, events_of, running, wait_for

PROMISED = {
    *("joules", "prefill_joules", "decode_joules", "idle_joules", "watts", "quality", "method", "scope"),
    *("coverage", "uncertainty"),
}


@pytest.fixture(scope="module")
def priced() -> Iterator[Daemon]:
    with running(LOCALAI_TARIFF="0.3", LOCALAI_CURRENCY="EUR", LOCALAI_CARBON="400", LOCALAI_CPU_WATTS="10") as started:
        started.chat("Hello")
        yield started


def _energy(daemon: Daemon, **fields: Any) -> Json:
    found: Json = daemon.chat("Tell me about foxes.", **fields).json["usage"]["energy"]
    return found


def test_answers_say_what_they_took(priced: Daemon) -> None:
    answer = priced.chat("Tell me about foxes.", max_tokens=24, ignore_eos=True)
    energy = answer.json["usage"]["energy"]
    assert set(energy) >= PROMISED
    assert energy["joules"] == pytest.approx(energy["prefill_joules"] + energy["decode_joules"], rel=1e-4)
    assert energy["joules"] > 0
    if energy["quality"] == "modelled":
        assert energy["idle_joules"] is None
        assert energy["reason"]
    assert float(answer.headers["x-energy-joules"]) == energy["joules"]
    assert answer.headers["x-energy-quality"] == energy["quality"]
    assert energy["predicted_joules"] is not None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me about foxes."}]}),
        ("/v1/completions", {"prompt": ["A fox", "A hen"]}),
    ],
    ids=["chat", "completion"],
)
def test_streams_end_with_what_they_took(priced: Daemon, path: str, body: Json) -> None:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 16}
    last = events_of(priced.ask("POST", path, asked).content)[-1]
    assert last["usage"]["energy"]["joules"] > 0


def test_the_ledger_keeps_joules_and_parents(priced: Daemon) -> None:
    parent = priced.chat("Call a tool.", max_tokens=16).json["id"]
    child = priced.chat("The tool's question.", parent_id=parent, max_tokens=16).json
    row = wait_for(lambda: next((r for r in priced.rows("queries") if r["parent"]), None))
    assert row["parent"] == parent.rpartition("-")[2]
    assert row["request"] == child["id"].rpartition("-")[2]
    assert row["joules"] == pytest.approx(child["usage"]["energy"]["joules"], rel=1e-4)
    assert row["quality"] == child["usage"]["energy"]["quality"]


@pytest.mark.parametrize("by", ["day", "model", "app", "conversation"])
def test_the_report_sums_up(priced: Daemon, by: str) -> None:
    report = json.loads(priced.cli("energy", "--by", by, "--json").stdout)
    known = [row for row in report["rows"] if row["joules"] is not None]
    assert known
    for row in known:
        whole = row["joules"] + (row["idle_joules"] or 0.0)
        assert row["kwh"] == pytest.approx(whole / 3.6e6)
        assert row["cost"] == pytest.approx(0.3 * row["kwh"])
        assert row["co2_g"] == pytest.approx(400 * row["kwh"])
    shown = priced.cli("energy", "--by", by).stdout
    assert "cost EUR" in shown
    assert report["quality"] in shown


def test_metrics_count_joules(priced: Daemon) -> None:
    text = priced.ask("GET", "/metrics").content.decode()
    assert 'localai_energy_joules_total{model="smollm2-135m-instruct",phase="decode"' in text
    assert "localai_energy_unattributed_joules" in text


def test_an_answer_ends_at_its_limit_and_says_so(priced: Daemon) -> None:
    whole = _energy(priced, max_tokens=96, ignore_eos=True)
    limit = whole["joules"] / 2
    answer = priced.chat("Tell me about foxes.", max_tokens=96, ignore_eos=True, max_joules=limit).json
    energy = answer["usage"]["energy"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 0 < answer["usage"]["completion_tokens"] < 96
    assert energy["joules"] <= 1.25 * limit
    assert f"max_joules {limit:g}" in energy["stopped"]
    assert energy["quality"].split("_")[0] in energy["stopped"]


def test_a_limit_below_one_token_is_refused(priced: Daemon) -> None:
    answer = priced.chat("Hello", max_joules=1e-6)
    assert (answer.status, answer.error["param"]) == (400, "max_joules")


def test_a_spent_day_refuses() -> None:
    with running(LOCALAI_MAX_JOULES_PER_DAY="0.001") as daemon:
        assert daemon.chat("Hello").status == 200
        refused = daemon.chat("Hello")
        assert (refused.status, refused.error["code"]) == (429, "energy_budget_spent")
        assert "max_joules_per_day" in refused.error["hint"]


def test_processor_time_of_requests_side_by_side_divides_by_their_work(priced: Daemon) -> None:
    """Batching makes both cheaper; which part of the whole each of them has stays as it is when they run alone."""

    def seconds(tokens: int) -> float:
        text = f"Tell me about {tokens} foxes."
        return float(priced.chat(text, max_tokens=tokens, ignore_eos=True).json["usage"]["energy"]["cpu_seconds"])

    seconds(32)
    alone = [seconds(80), seconds(80)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(seconds, (80, 80)))
    assert together[0] / sum(together) == pytest.approx(0.5, abs=0.1)
    assert sum(together) <= 1.1 * sum(alone)
