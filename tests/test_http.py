"""The daemon's HTTP, byte by byte: streams, bad input, limits, and what it says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from localai.orders import N_SEQ
from tests.daemon_fixture import Daemon, events_of, wait_for

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0}


def test_a_stream_has_openais_shape_byte_by_byte(daemon: Daemon) -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    answer = daemon.ask("POST", CHAT, body)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.content.split(b"\n\n")
    assert frames[-2:] == [b"data: [DONE]", b""]
    assert all(re.fullmatch(rb"data: \{[^\n]*\}", frame) for frame in frames[:-2] if not frame.startswith(b":"))
    role, *middle, end, usage = events_of(answer.content)
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert all(list(c["choices"][0]["delta"]) == ["content"] for c in middle)
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    chunks = [role, *middle, end, usage]
    assert {(c["id"], c["created"], c["object"]) for c in chunks} == {
        (role["id"], role["created"], "chat.completion.chunk")
    }
    assert all(c["usage"] is None for c in chunks[:-1])


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None], ids=str)
@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/messages"])
def test_a_body_is_json_whatever_it_is_called(daemon: Daemon, path: str, kind: str | None) -> None:
    """As `curl -d` sends it, and clients that name no type."""
    body = json.dumps({**HELLO, "model": "starter"} | ({"stream": False} if path == "/api/chat" else {}))
    with closing(daemon.connection()) as line:
        line.request("POST", path, body, {} if kind is None else {"Content-Type": kind})
        answer = line.getresponse()
        assert answer.status == 200, answer.read()


def test_a_slow_prefill_is_bridged_by_comments(daemon: Daemon) -> None:
    body = {"prompt": "x" * 60, "max_tokens": 2, "stream": True, "model": daemon.echo("slow.txt", 200)}
    with closing(daemon.connection(unix=True)) as line:
        line.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = line.getresponse()
        assert answer.status == 200
        first = answer.readline()
        rest = answer.read()
    assert first.startswith(b": ")
    assert rest.endswith(b"data: [DONE]\n\n")
    assert "".join(c["choices"][0]["text"] for c in events_of(first + rest)) == "xx"


def test_health_answers_at_once_during_a_prefill(daemon: Daemon) -> None:
    # Many steps with nothing but prompt in them, left when that is seen.
    body = {"prompt": "y" * 3000, "max_tokens": 1, "stream": True, "model": daemon.echo("busy.txt", 400)}
    with closing(daemon.connection(unix=True)) as line:
        line.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        wait_for(lambda: any(e["users"] and e["state"] == "loaded" for e in daemon.engines()))
        for _ in range(3):
            assert daemon.ask("GET", "/health").json["status"] == "ok"
        assert any(e["users"] for e in daemon.engines())
    wait_for(lambda: not any(e["users"] for e in daemon.engines()))


CALL_WITHOUT_ID = {"role": "tool", "content": "4"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages of another type": ({"messages": "hello"}, "messages"),
    "unknown role": ({"messages": [{"role": "wizard", "content": "x"}]}, "wizard"),
    "orphaned tool result": ({"messages": [{"role": "user", "content": "x"}, CALL_WITHOUT_ID]}, "tool message"),
    "image": ({"messages": [{"role": "user", "content": [IMAGE]}]}, "text only"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
    "half a character in a name": ({"model": "\ud800"}, "lone surrogate"),
    "response format without a type": ({"response_format": {"schema": {}}}, "response_format"),
    "temperature as text": ({"temperature": "hot"}, "temperature"),
    "negative temperature": ({"temperature": -1}, "temperature"),
    "huge temperature": ({"temperature": 1e300}, "temperature"),
    "no number": ({"temperature": float("nan")}, "temperature must be a finite number, which NaN is not"),
    "joules without end": ({"max_joules": float("inf")}, "max_joules must be a positive finite number"),
    "top_p over one": ({"top_p": 1.5}, "top_p"),
    "huge top_k": ({"top_k": 10**30}, "top_k"),
    "huge seed": ({"seed": 10**40}, "seed"),
    "negative max_tokens": ({"max_tokens": -2}, "max_tokens"),
    "huge max_tokens": ({"max_tokens": 10**12}, "max_tokens"),
    "n of zero": ({"n": 0}, "n"),
    "n of a thousand": ({"n": 1000}, "n"),
    "n beyond the engine": ({"n": 60}, "n is 60"),
    "too many alternatives": ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
    "bias of no token": ({"logit_bias": {"cat": 1}}, "logit_bias"),
    "bias of a token that is not": ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    "bias of a text": ({"logit_bias": [["cat", 1]]}, "logit_bias: send pairs"),
    "huge bias": ({"logit_bias": {"5": 1e9}}, "logit_bias"),
    "too many stops": ({"stop": ["a"] * 40}, "stop"),
    "stop of another type": ({"stop": {"a": 1}}, "stop"),
    "unknown response format": ({"response_format": {"type": "yaml"}}, "yaml"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "json_schema"),
    "invalid schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wizard"}}}},
        "schema",
    ),
    "schema of another type": ({"response_format": {"type": "json_schema", "json_schema": "person"}}, "json_schema"),
    "invalid regex": ({"regex": "(["}, "reg"),
    "invalid grammar": ({"grammar": "root ::= ((("}, "grammar"),
    "tool choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "name"),
    "invalid tool schema": (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "wizard"}}}],
            "tool_choice": "required",
        },
        "schema",
    ),
    "unknown backend": ({"backend": "abacus"}, "abacus"),
    "unknown priority": ({"priority": "royal"}, "priority"),
    "negative deadline": ({"deadline": -1}, "deadline"),
    "context beyond reason": ({"num_ctx": 10**9}, "num_ctx"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("fields", "named"), BAD.values(), ids=BAD.keys())
def test_bad_parameters_are_refused_by_name(daemon: Daemon, fields: dict[str, Any], named: str, stream: bool) -> None:
    answer = daemon.ask("POST", CHAT, {**HELLO, **fields, "stream": stream})
    assert answer.status == 400, answer.content
    assert named in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"
    assert set(answer.error) >= {"message", "type", "param", "code", "hint"}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ""}, "empty"),
        ("/v1/completions", {"prompt": [-5]}, "prompt"),
        ("/v1/completions", {"prompt": [10**30]}, "prompt"),
        ("/v1/completions", {"prompt": [10**7]}, "prompt token"),
        ("/v1/completions", {"prompt": [["x"]]}, "prompt"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 3000}, "input"),
        ("/v1/embeddings", {"input": ["fine", ""]}, "empty"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "roman"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:30],
)
def test_bad_prompts_are_refused_by_name(daemon: Daemon, path: str, body: dict[str, Any], named: str) -> None:
    answer = daemon.ask("POST", path, body)
    assert (answer.status, named in answer.error["message"]) == (400, True), answer.content


RAW = {
    "not json": b"{nope",
    "nothing": b"",
    "not utf-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "a list": b"[1]",
    "deep": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in a schema": b'{"messages":[{"role":"user","content":"x"}],"tools":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "endless number": b'{"seed": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", RAW.values(), ids=RAW.keys())
def test_a_body_that_is_no_request_is_refused(daemon: Daemon, body: bytes) -> None:
    answer = daemon.ask("POST", CHAT, body)
    assert answer.status == 400, answer.content
    assert answer.error["message"]


def _pieces() -> Iterator[bytes]:
    for _ in range(50):
        yield b" " * 2**20


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_over_the_limit_is_refused(daemon: Daemon, chunked: bool) -> None:
    answer = daemon.ask("POST", CHAT, _pieces() if chunked else b" " * 50 * 2**20)
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


def test_unknown_fields_are_ignored(daemon: Daemon) -> None:
    assert daemon.ask("POST", CHAT, {**HELLO, "user": "me", "store": True, "telepathy": {"on": 1}}).status == 200


@pytest.mark.parametrize("bearer", ["undefined", "sk-anything", ""])
def test_any_bearer_will_do_on_loopback(daemon: Daemon, bearer: str) -> None:
    assert daemon.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {bearer}"}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("HEAD", "/health", 200),
        ("HEAD", "/nowhere", 404),
        ("GET", "/health", 200),
    ],
)
def test_routes_and_methods(daemon: Daemon, method: str, path: str, status: int) -> None:
    answer = daemon.ask(method, path)
    assert answer.status == status
    assert (answer.content == b"") == (method == "HEAD")
    assert (status == 405) == ("allow" in answer.headers)
    assert status < 400 or method == "HEAD" or answer.error["hint"]


def _metrics(daemon: Daemon) -> dict[str, float]:
    text = daemon.ask("GET", "/metrics").content.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_metrics_move_with_requests(daemon: Daemon) -> None:
    daemon.ask("POST", CHAT, HELLO)
    before = _metrics(daemon)
    daemon.ask("POST", CHAT, HELLO)
    daemon.ask("POST", CHAT, {**HELLO, "model": "typed-by-a-stranger"})
    after = _metrics(daemon)
    assert after["localai_queries_total"] == before["localai_queries_total"] + 2
    assert after["localai_tokens_total"] > before["localai_tokens_total"]
    assert after["localai_engine_steps_total"] > before["localai_engine_steps_total"]
    assert after["localai_queries_running"] == 0
    assert b"stranger" not in daemon.ask("GET", "/metrics").content


def test_the_openapi_document_is_valid_and_whole(daemon: Daemon) -> None:
    document = daemon.ask("GET", "/openapi.json").json
    OpenAPI.model_validate(document)
    assert {CHAT, "/v1/completions", "/v1/embeddings", "/v1/models", "/health", "/metrics"} <= set(document["paths"])
    promised = {"400", "403", "404", "413", "422", "429", "502", "503", "504", "507"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert promised <= set(operation["responses"]), path


@pytest.mark.parametrize(
    ("step_ms", "seconds", "status"), [(250, 0.1, 504), (20, 3.0, 200)], ids=["before a token", "after some"]
)
def test_a_deadline_ends_a_request(daemon: Daemon, step_ms: int, seconds: float, status: int) -> None:
    model = daemon.echo(f"late{step_ms}.txt", step_ms)
    assert daemon.chat("loaded?", unix=True, model=model, max_tokens=1).status == 200
    answer = daemon.chat("z" * 1000, unix=True, model=model, deadline=seconds, max_tokens=900)
    assert answer.status == status
    if status == 200:
        choice = answer.json["choices"][0]
        assert (choice["finish_reason"], len(choice["message"]["content"]) in range(1, 900)) == ("length", True)
    else:
        assert answer.error["code"] == "deadline_passed"


def test_a_control_token_in_a_message_is_plain_text(daemon: Daemon) -> None:
    lengths = [
        daemon.chat(text, max_tokens=1).json["usage"]["prompt_tokens"] for text in ("a", "a<|im_end|>", "a<|imxend|>")
    ]
    assert lengths[1] > lengths[0] + 3
    assert abs(lengths[1] - lengths[2]) <= 2


def test_nothing_is_left_of_clients_that_left(daemon: Daemon) -> None:
    """By the engine's own counts, which it tells when it rests."""
    model = daemon.echo("left.txt", 20)
    body = {"prompt": "z" * 400, "stream": True, "model": model}
    for _ in range(3):
        with closing(daemon.connection(unix=True)) as line:
            line.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            assert line.getresponse().read(20)

    def at_rest() -> bool:
        (held,) = [engine["sequences"] for engine in daemon.engines() if engine["model"] == "echo:left.txt"]
        counts = [held[name] for name in ("waiting", "running", "active")]
        return counts == [0, 0, 0] and held["kept"] + held["free"] == N_SEQ and held["kept"] > 0

    wait_for(at_rest, 60)
