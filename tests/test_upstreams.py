"""Answers from other machines: a second daemon on loopback, and a server that breaks every rule."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from localai.catalog import Catalog
from localai.decoding import Clock
from localai.errors import BadRequest, ConfigError, LocalaiError
from localai.ledger import Entry
from localai.messages import (
    ChoiceDone,
    Delta,
    Message,
    Started,
    Summary,
    ToolCallDelta,
    TurnEvent,
    TurnRequest,
    Waiting,
)
from localai.upstreams.health import Line
from localai.upstreams.relay import Upstreams
from localai.upstreams.spec import UpstreamSpec, key_of, read_upstreams
from localai.upstreams.wire import ChunkReader, NotUnderstood, body_of, refuse_what_stays_here, vector_of
from tests.broken_upstream import Broken, broken_upstream
from tests.daemon_fixture import Daemon, events_of, free_port, running, wait_for

STARTER = "smollm2-135m-instruct"
Json = dict[str, Any]
FOUR = {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"]}


@pytest.fixture(scope="module")
def bad() -> Iterator[Broken]:
    with broken_upstream() as server:
        yield server


@pytest.fixture
def own() -> Iterator[Broken]:
    """One that nobody else asks, whose requests can be counted."""
    with broken_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def far() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def here(far: Daemon, bad: Broken) -> Iterator[Daemon]:
    with running(UP_KEY="sesame-street") as daemon:
        overlay = f"""
[upstreams.far]
url = "{far.url}"
[upstreams.off]
url = "http://127.0.0.1:{free_port()}"
models = ["m"]
fallback = "starter"
[upstreams.lone]
url = "http://127.0.0.1:{free_port()}"
models = ["m"]
[upstreams.locked]
url = "{bad.url}/v1"
models = ["good"]
api_key_env = "UP_KEY"
[upstreams.half]
url = "{bad.url}"
models = ["half", "role-only"]
fallback = "starter"
[upstreams.endless]
url = "{bad.url}"
models = ["endless"]
"""
        (daemon.home / "models.toml").write_text(overlay)
        wait_for(lambda: len(daemon.client.get("/localai/status")["upstreams"]) == 6)
        yield daemon


# -- a second daemon


def test_a_daemon_answers_through_another(here: Daemon, far: Daemon) -> None:
    answer = here.chat("What is the capital of France?", model=f"far/{STARTER}").json
    direct = far.chat("What is the capital of France?").json
    assert answer["choices"][0]["message"]["content"] == direct["choices"][0]["message"]["content"] != ""
    assert (answer["model"], answer["backend"]) == (f"far/{STARTER}", "upstream")
    assert "on another machine" in answer["reason"]
    assert answer["usage"]["completion_tokens"] == direct["usage"]["completion_tokens"] > 0
    energy = answer["usage"]["energy"]
    assert (energy["quality"], energy["joules"]) == ("none", None)
    assert "another machine" in energy["reason"]
    assert answer["timings"]["ttft_ms"] > 0
    row = wait_for(lambda: here.rows("queries"))[-1]
    assert (row["model"], row["backend"], row["quality"], row["joules"]) == (f"far/{STARTER}", "upstream", "none", None)
    assert row["ttft_ms"] > 0
    assert row["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert here.engines() == []


def test_a_stream_is_passed_on_as_it_comes(here: Daemon) -> None:
    fields: Json = {"stream": True, "stream_options": {"include_usage": True}, "model": f"far/{STARTER}"}
    events = events_of(here.chat("Count to five.", **fields).content)
    texts = [e["choices"][0]["delta"].get("content") for e in events if e["choices"]]
    assert len([text for text in texts if text]) > 3
    assert events[-1]["usage"]["completion_tokens"] == 8
    assert events[-1]["backend"] == "upstream"


@pytest.mark.parametrize(
    ("path", "body", "seen"),
    [
        ("completions", {"prompt": "Once upon", "logprobs": 1}, lambda a: a["choices"][0]["logprobs"]["tokens"]),
        ("embeddings", {"input": "a text"}, lambda a: len(a["data"][0]["embedding"]) == 576),
        (
            "chat/completions",
            {
                "messages": [{"role": "user", "content": "Pick a number."}],
                "logprobs": True,
                "top_logprobs": 2,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "schema": {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"]}
                    },
                },
            },
            lambda a: json.loads(a["choices"][0]["message"]["content"])["n"] == 4 and a["choices"][0]["logprobs"],
        ),
    ],
    ids=["completion", "embedding", "schema and logprobs"],
)
def test_every_kind_goes_through(here: Daemon, path: str, body: Json, seen: Any) -> None:
    sent = {"model": f"far/{STARTER}", "temperature": 0, "max_tokens": 24, **body}
    answer = here.ask("POST", f"/v1/{path}", sent)
    assert answer.status == 200, answer.json
    assert seen(answer.json)


def test_what_the_upstream_refuses_keeps_its_status(here: Daemon) -> None:
    unknown = here.chat("Hello", model="far/nonsense")
    assert unknown.status == 404
    assert "far" in unknown.error["message"]
    long = here.chat("word " * 20_000, model=f"far/{STARTER}")
    assert (long.status, "context" in long.error["message"]) == (400, True)


def test_leaving_cancels_the_work_there(here: Daemon, far: Daemon) -> None:
    begun = time.time()
    body = {"model": f"far/{STARTER}", "stream": True, "max_tokens": 4000, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "Tell me everything."}]
    with closing(here.connection()) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().read1(200)
    row = wait_for(lambda: next((row for row in far.rows("queries") if row["started"] >= begun), None))
    assert row["finish"] == "cancelled"
    wait_for(lambda: here.newest("queries").get("finish") == "cancelled")


def test_an_upstream_that_is_away_is_replaced_and_says_so(here: Daemon) -> None:
    answer = here.chat("Hello", model="off/m").json
    assert (answer["model"], answer["backend"]) == (STARTER, "llama.cpp")
    for said in (answer["reason"], answer["fallback"]):
        assert "off/m was asked for, but the upstream 'off' cannot be reached" in said
    assert wait_for(lambda: any("starter answers instead" in (r["reason"] or "") for r in here.rows("queries")))
    again = here.chat("Hello", model="off/m").json
    assert "off/m was asked for" in again["reason"]
    shown = next(u for u in here.client.get("/localai/status")["upstreams"] if u["name"] == "off")
    assert shown["fallbacks"] == 2
    assert wait_for(lambda: "upstream off (127.0.0.1" in here.cli("status").stdout)


def test_an_upstream_without_fallback_fails_clearly_and_then_rests(here: Daemon) -> None:
    for _ in range(3):
        answer = here.chat("Hello", model="lone/m")
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
        assert "cannot be reached" in answer.error["message"]
    resting = here.chat("Hello", model="lone/m")
    assert (resting.status, "rests" in resting.error["message"]) == (503, True)
    assert 0 < int(resting.headers["retry-after"]) <= 60


@pytest.mark.parametrize("model", ["", "default", "auto"])
def test_nothing_leaves_unless_the_model_is_named(bad: Broken, model: str) -> None:
    asked = len(bad.bodies)
    with running(LOCALAI_DEFAULT_MODEL="bad/good") as daemon:
        (daemon.home / "models.toml").write_text(f'[upstreams.bad]\nurl = "{bad.url}"\nmodels = ["good"]\n')
        wait_for(lambda: daemon.client.get("/localai/status")["upstreams"])
        answer = daemon.chat("A secret", model=model)
    assert (answer.status, "on another machine" in answer.error["message"]) == (400, True)
    assert len(bad.bodies) == asked


def test_a_key_serves_its_owner_only(here: Daemon, bad: Broken) -> None:
    refused = here.chat("Hello", model="locked/good")
    assert (refused.status, "has a key" in refused.error["message"]) == (403, True)
    answer = here.chat("Hello", model="locked/good", unix=True).json
    assert answer["choices"][0]["message"]["content"] == "one two "
    # The checks in the background go to the same server.
    assert "Bearer sesame-street" in {headers.get("authorization") for headers in bad.headers}
    assert answer["usage"]["completion_tokens"] is None
    assert answer["timings"]["predicted_n"] is None
    texts = [p.read_text("utf-8", "replace") for p in (here.home / "logs").rglob("*") if p.is_file()]
    texts.append(json.dumps(here.client.get("/localai/status")))
    assert not any("sesame-street" in text for text in texts)


def test_loss_before_a_word_is_repaired_and_after_it_is_told(here: Daemon) -> None:
    before = here.chat("Hello", model="half/role-only").json
    assert (before["model"], "broke off" in before["reason"]) == (STARTER, True)
    after = here.chat("Hello", model="half/half")
    assert (after.status, "broke off in the middle" in after.error["message"]) == (502, True)
    events = events_of(here.chat("Hello", model="half/half", stream=True).content)
    texts = [event["choices"][0]["delta"].get("content", "") for event in events if "choices" in event]
    assert "".join(texts) == "one two "
    assert events[-1]["error"]["code"] == "upstream_failed"
    wait_for(lambda: here.newest("queries").get("error") == "upstream_failed")


def test_a_deadline_ends_what_was_begun(here: Daemon) -> None:
    answer = here.chat("Hello", model="endless/endless", deadline=3.0).json
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"].startswith("and and")) == ("length", True)


def test_lists_name_the_models_of_upstreams(here: Daemon) -> None:
    listed = {m["id"]: m for m in here.ask("GET", "/v1/models").json["data"]}
    assert listed[f"far/{STARTER}"]["context_length"] == 8192
    assert listed[f"far/{STARTER}"]["owned_by"] == "far"
    assert listed["off/m"]["upstream"]["fallback"] == "starter"
    assert here.ask("GET", f"/v1/models/far/{STARTER}").json["id"] == f"far/{STARTER}"


# -- servers that break the rules, and the parts one by one


async def asked(tmp_path: Path, url: str, model: str, line: str = "", **fields: Any) -> list[TurnEvent]:
    """The events of a request to one upstream; the ledger's entry is not kept."""
    (tmp_path / "models.toml").write_text(f'[upstreams.up]\nurl = "{url}"\n{line}')
    upstreams = Upstreams(lambda: catalog)
    catalog = Catalog.load(tmp_path)
    request = TurnRequest(kind="chat", model=f"up/{model}", messages=(Message("user", "Hello"),), **fields)
    try:
        async with upstreams.relay(request, Clock(), Entry(request)) as away:
            events = [event async for event in away.events]
        assert away.served
        return events
    finally:
        await upstreams.close()


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("status-500", 502, "says: no memory"),
        ("status-503", 503, "answers 503"),
        ("status-429", 429, "slow down"),
        ("status-401", 502, "refuses us"),
        ("status-400", 400, "top_k is unknown"),
        ("status-404", 404, "no such model"),
        ("huge-error", 502, "more than an answer can be"),
        ("redirect", 502, "redirects to elsewhere.invalid"),
        ("plain-json", 502, "instead of a stream"),
        ("packed", 502, "compresses"),
        ("empty", 502, "broke off"),
        ("role-only", 502, "broke off"),
        ("half", 502, "broke off"),
        ("not-json", 502, "no JSON"),
        ("nan", 502, "no JSON"),
        ("no-choices", 502, "no list of choices"),
        ("alien-index", 502, "not asked for"),
        ("number-as-text", 502, "content is no text"),
        ("error-inside", 502, "the GPU [31m is gone"),
        ("late-error", 502, "the GPU is gone"),
        ("endless-line", 502, "more than an answer can be"),
        ("silent", 502, "was silent for 0.4 s"),
    ],
)
async def test_broken_servers(tmp_path: Path, bad: Broken, model: str, status: int, words: str) -> None:
    with pytest.raises(LocalaiError, match="up") as caught:
        await asked(tmp_path, bad.url, model, "timeout = 0.4\n" if model == "silent" else "timeout = 60.0\n")
    assert (caught.value.status, words in caught.value.message) == (status, True), caught.value.message
    assert "\x1b" not in caught.value.message
    if status in (429, 503):
        assert caught.value.retry_after in (7, 9)
    assert not any(path.startswith("/elsewhere") for path in bad.paths)


async def test_a_deadline_before_the_first_word(tmp_path: Path, bad: Broken) -> None:
    with pytest.raises(LocalaiError) as caught:
        await asked(tmp_path, bad.url, "silent", deadline=0.2)
    assert (caught.value.status, caught.value.code) == (504, "deadline_passed")


async def test_a_whole_answer_becomes_our_events(tmp_path: Path, own: Broken) -> None:
    events = await asked(tmp_path, own.url, "good")
    kinds = [type(event) for event in events if not isinstance(event, Waiting)]
    assert kinds[0] is Started
    assert kinds[-2:] == [ChoiceDone, Summary]
    assert "".join(event.content for event in events if isinstance(event, Delta)) == "one two "
    assert [headers["accept-encoding"] for headers in own.headers] == ["identity"]
    assert "authorization" not in own.headers[0]


async def test_the_check_runs_only_while_in_use(own: Broken) -> None:
    line = Line(UpstreamSpec(name="up", url=own.url), check_s=0.1, in_use_s=0.5)
    await asyncio.sleep(0.3)
    assert own.paths == []
    line.begin()
    await until(lambda: line.state == "up")
    assert line.found == {"good": 2048}
    own.healthy = False
    await until(lambda: line.state == "down")
    own.healthy = True
    await until(lambda: line.state == "up")
    line.end()
    await until(lambda: line.state == "unknown")
    rested = len(own.paths)
    await asyncio.sleep(0.3)
    assert len(own.paths) == rested
    await line.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "missing required field `url`"),
        ({"url": "ftp://host"}, "url cannot be used"),
        ({"url": "http://user:secret@host"}, "url cannot be used"),
        ({"url": "http://host/v1?key=secret"}, "url cannot be used"),
        ({"url": "http://host:99999"}, "url cannot be used"),
        ({"url": "http://host", "api_key": "secret"}, "does not belong into this file"),
        ({"url": "http://host", "api_key_env": "A", "api_key_keyring": "b"}, "more than one source"),
        ({"url": "http://host", "timeout": 0}, "expected `float` > 0"),
        ({"url": "http://host", "color": "red"}, "unknown field `color`"),
        ({"url": "http://host", "fallback": "desk/other"}, "no model of this machine"),
        ({"url": "http://host", "fallback": "auto"}, "no model of this machine"),
        ("http://host", "is no table"),
    ],
)
def test_wrong_entries_are_named(entry: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_upstreams("models.toml", {"desk": entry})
    assert words in caught.value.message
    assert "desk" in caught.value.message
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://desk:8642", "http://desk:8642/v1"),
        ("http://desk:8642/", "http://desk:8642/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai"),
    ],
)
def test_the_path_is_kept(url: str, root: str) -> None:
    assert read_upstreams("models.toml", {"desk": {"url": url}})[0].root == root


@pytest.mark.parametrize("value", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_is_none_is_refused_unquoted(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_of(UpstreamSpec(name="up", url="http://host", api_key_env="K"), {"K": value})
    assert not value or value not in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [{"max_joules": 1.0}, {"backend": "onnx"}, {"policy": "frugal"}, {"n_ctx": 100}, {"prompt_tokens": (1, 2)}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_another_machine_cannot_honour_is_refused(fields: Json) -> None:
    with pytest.raises(BadRequest) as caught:
        refuse_what_stays_here(TurnRequest(kind="completion", model="up/m", **fields))
    assert caught.value.param == next(iter(fields))


def test_only_what_the_client_set_is_sent() -> None:
    body = body_of(TurnRequest(kind="chat", model="up/m", messages=(Message("user", "Hi"),), think=False), "m")
    assert set(body) == {"model", "stream", "stream_options", "messages", "chat_template_kwargs"}
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


def test_tool_calls_and_reasoning_are_read() -> None:
    reader = ChunkReader("chat", 1)
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ": 1}"}}
    deltas: list[Json] = [{"reasoning_content": "hm"}, {"tool_calls": [call]}, {"tool_calls": [more]}]
    events = [e for d in deltas for e in reader.read({"choices": [{"index": 0, "delta": d}]})]
    assert events == [
        Delta(0, reasoning="hm"),
        Delta(0, tool_calls=(ToolCallDelta(0, "c1", "add", '{"a"'),)),
        Delta(0, tool_calls=(ToolCallDelta(0, None, None, ": 1}"),)),
    ]
    end = reader.read({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    assert (end, reader.whole) == ([ChoiceDone(0, "tool_calls")], True)


@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{"embedding": [0, 0]}]}, {"data": [{"embedding": "x"}]}]
)
def test_vectors_that_are_none(answer: Json) -> None:
    with pytest.raises(NotUnderstood):
        vector_of(answer)
