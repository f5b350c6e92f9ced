"""Joules where users meet them: answers, headers, streams, the ledger, `localai energy`, /metrics, and budgets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from localai.energy.report import priced, table
from localai.ledger import Ledger
from localai.messages import TurnRequest
from localai.metrics import Metrics
from tests.daemon_fixture import Daemon, Json, events_of, running, wait_for

PROMISED = {
    *("joules", "prefill_joules", "decode_joules", "idle_joules", "watts", "quality", "method", "scope"),
    *("coverage", "uncertainty", "cpu_seconds", "predicted_joules", "forecast_joules", "forecast_tokens"),
}


@pytest.fixture
def warm(daemon: Daemon) -> Daemon:
    """The common daemon, after answers that let it know what its tokens take."""
    daemon.chat("Hello")
    return daemon


def _energy(daemon: Daemon, **fields: Any) -> Json:
    found: Json = daemon.chat("Tell me about foxes.", **fields).json["usage"]["energy"]
    return found


def test_answers_say_what_they_took(warm: Daemon) -> None:
    answer = warm.chat("Tell me about foxes.", max_tokens=24, ignore_eos=True)
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
    # It may not end before its limit: its length was known, and so both are of as many tokens.
    assert energy["forecast_tokens"] == 24
    assert energy["forecast_joules"] == pytest.approx(energy["predicted_joules"], rel=0.5)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me about foxes."}]}),
        ("/v1/completions", {"prompt": ["A fox", "A hen"]}),
    ],
    ids=["chat", "completion"],
)
def test_streams_end_with_what_they_took(warm: Daemon, path: str, body: Json) -> None:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 16}
    last = events_of(warm.ask("POST", path, asked).content)[-1]
    assert last["usage"]["energy"]["joules"] > 0


def test_the_ledger_keeps_joules_and_parents(warm: Daemon) -> None:
    parent = warm.chat("Call a tool.", max_tokens=16).json["id"]
    child = warm.chat("The tool's question.", parent_id=parent, max_tokens=16).json
    asked = parent.rpartition("-")[2]
    row = wait_for(lambda: next((r for r in warm.rows("queries") if r["parent"] == asked), None))
    assert row["request"] == child["id"].rpartition("-")[2]
    assert row["joules"] == pytest.approx(child["usage"]["energy"]["joules"], rel=1e-4)
    assert row["quality"] == child["usage"]["energy"]["quality"]


@pytest.mark.parametrize("by", ["day", "model", "app", "conversation"])
def test_the_report_sums_up(warm: Daemon, by: str) -> None:
    report = json.loads(warm.cli("energy", "--by", by, "--json").stdout)
    known = [row for row in report["rows"] if row["joules"] is not None]
    assert known
    assert all(row["kwh"] == pytest.approx((row["joules"] + (row["idle_joules"] or 0.0)) / 3.6e6) for row in known)
    assert {row["cost"] for row in report["rows"]} == {None}
    assert report["quality"] in warm.cli("energy", "--by", by).stdout


def test_the_report_needs_no_daemon_and_takes_prices_from_the_environment(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, 0, LOCALAI_TARIFF="0.4", LOCALAI_CURRENCY="EUR", LOCALAI_CARBON="300")
    assert json.loads(daemon.cli("energy", "--json").stdout)["rows"] == []
    assert not (tmp_path / "ledger.db").exists()
    ledger = Ledger(tmp_path / "ledger.db", Metrics())
    with ledger.entry(TurnRequest(kind="chat", model="m")) as entry:
        entry.row |= {"joules": 3.6e6, "quality": "measured", "completion_tokens": 5}
    ledger.close()
    found = json.loads(daemon.cli("energy", "--by", "model", "--json").stdout)
    assert [(row["key"], row["cost"], row["co2_g"]) for row in found["rows"]] == [("m", 0.4, 300.0)]
    assert "cost EUR" in daemon.cli("energy").stdout
    (tmp_path / "ledger.db").write_bytes(b"no database at all, but long enough to look like one" * 40)
    refused = daemon.cli("energy")
    assert (refused.returncode, "damaged" in refused.stderr) == (2, True)


def test_energy_has_a_price_and_a_weight() -> None:
    row = {"key": "x", "quality": "measured", "queries": 1, "completion_tokens": 5, "joules": 3.0e6, "idle_joules": 6e5}
    found = priced(row, tariff=0.3, carbon=400.0)
    assert (found["kwh"], found["cost"], found["co2_g"]) == pytest.approx((1.0, 0.3, 400.0))
    unknown = priced({**row, "joules": None}, tariff=0.3, carbon=400.0)
    assert (unknown["kwh"], unknown["cost"], unknown["co2_g"]) == (None, None, None)
    shown = table({"by": "day", "rows": [found, unknown], "tariff": 0.3, "currency": "EUR", "carbon": 400.0})
    assert "cost EUR" in shown
    assert "unknown" in shown


def test_metrics_count_joules(warm: Daemon) -> None:
    text = warm.ask("GET", "/metrics").content.decode()
    assert 'localai_energy_joules_total{model="smollm2-135m-instruct",phase="decode"' in text
    assert "localai_energy_unattributed_joules" in text


def test_an_answer_ends_at_its_limit_and_says_so(warm: Daemon) -> None:
    # The least of a few: a neighbour makes an answer dearer, and the next one need not have that neighbour.
    limit = min(_energy(warm, max_tokens=96, ignore_eos=True)["joules"] for _ in range(3)) / 3
    took = []
    for _ in range(5):
        answer = warm.chat("Tell me about foxes.", max_tokens=96, ignore_eos=True, max_joules=limit).json
        energy = answer["usage"]["energy"]
        assert answer["choices"][0]["finish_reason"] == "length"
        # Where neighbours keep the daemon from looking in time, the engine makes more tokens meanwhile, perhaps all.
        if answer["usage"]["completion_tokens"] == 96:
            continue
        assert f"max_joules {limit:g}" in energy["stopped"]
        assert energy["quality"].split("_")[0] in energy["stopped"]
        took.append(energy["joules"])
        if took[-1] <= 1.25 * limit:
            break
    assert min(took) <= 1.25 * limit


def test_a_limit_below_one_token_is_refused(warm: Daemon) -> None:
    answer = warm.chat("Hello", max_joules=1e-6)
    assert (answer.status, answer.error["param"]) == (400, "max_joules")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/responses", {"input": "Hello"}),
        ("/v1/messages", {"max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hello"}], "stream": False}),
        ("/api/generate", {"prompt": "Hello", "stream": False}),
        ("/completion", {"prompt": "Hello"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_dialect_knows_the_limit(warm: Daemon, path: str, body: dict[str, Any]) -> None:
    answer = warm.ask("POST", path, {"model": "starter", "max_joules": 1e-6, **body})
    assert (answer.status, b"max_joules" in answer.content) == (400, True)


def test_a_spent_day_refuses() -> None:
    with running(LOCALAI_MAX_JOULES_PER_DAY="0.001") as daemon:
        assert daemon.chat("Hello").status == 200
        refused = daemon.chat("Hello")
        assert (refused.status, refused.error["code"]) == (429, "energy_budget_spent")
        assert "max_joules_per_day" in refused.error["hint"]


def test_processor_time_of_requests_side_by_side_divides_by_their_work(warm: Daemon) -> None:
    """Batching makes both cheaper; which part of the whole each of them has stays as it is when they run alone."""

    def seconds(tokens: int) -> float:
        text = f"Tell me about {tokens} foxes."
        return float(warm.chat(text, max_tokens=tokens, ignore_eos=True).json["usage"]["energy"]["cpu_seconds"])

    seconds(32)
    alone, together = [], []
    with ThreadPoolExecutor(2) as threads:
        # A neighbour only adds, so the least of some rounds tells: the fewer, the quieter it is.
        for _ in range(6):
            alone.append(seconds(60) + seconds(60))
            together.append(tuple(threads.map(seconds, (60, 60))))
            one, other = min(together, key=sum)
            if abs(one / (one + other) - 0.5) < 0.08 and one + other <= 1.05 * min(alone):
                break
    one, other = min(together, key=sum)
    assert one / (one + other) == pytest.approx(0.5, abs=0.1)
    assert one + other <= 1.1 * min(alone)
