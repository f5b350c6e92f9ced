"""Anthropic's own Python client, unchanged, against a real daemon with a real model; and its events one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from localai.api.anthropic_in import MessagesBody, messages_request
from localai.api.anthropic_out import MessageStream, message
from localai.api.caller import Caller
from localai.api.visitor import Visitor
from localai.errors import BadRequest
from tests.daemon_fixture import Daemon
from tests.turn_events import EVENTS, STRICT

anthropic = pytest.importorskip("anthropic", reason="the `anthropic` package is not installed")

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
SHORT: Any = {"model": "claude-haiku-4-5", "max_tokens": 5, "extra_body": {"temperature": 0}}
WEATHER: Any = {"name": "get_weather", "description": "The weather", "input_schema": STRICT}
SHAPE: Any = {"type": "json_schema", "schema": STRICT}
IMAGE: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=daemon.url, api_key="any", max_retries=0, timeout=150) as made:
        yield made


def test_an_answer_streams_to_the_same_text(client: Any) -> None:
    whole = client.messages.create(messages=QUESTION, **SHORT)
    with client.messages.stream(messages=QUESTION, **SHORT) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text != ""
    for each in (whole, final):
        assert (each.stop_reason, each.usage.output_tokens) == ("max_tokens", 5)
        assert each.model == "smollm2-135m-instruct"
        assert each.usage.input_tokens + each.usage.cache_read_input_tokens > 5
    assert "energy" in whole.usage.model_extra


def test_tokens_are_counted_as_they_are_sent(client: Any) -> None:
    whole = client.messages.create(messages=QUESTION, system="Be brief.", **SHORT).usage
    counted = client.messages.count_tokens(model="starter", messages=QUESTION, system="Be brief.")
    assert counted.input_tokens == whole.input_tokens + whole.cache_read_input_tokens


def test_a_forced_call_streams_valid_json(client: Any) -> None:
    forced: Any = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    asked: Any = {**SHORT, "max_tokens": 60, "tools": [WEATHER], "tool_choice": forced}
    with client.messages.stream(messages=QUESTION, **asked) as stream:
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert (call.name, list(call.input), final.stop_reason) == ("get_weather", ["city"], "tool_use")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    said: Any = [*QUESTION, {"role": "assistant", "content": final.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(messages=said, tools=[WEATHER], **SHORT).usage.output_tokens == 5


def test_a_stop_sequence_is_named(client: Any) -> None:
    text = client.messages.create(messages=QUESTION, **SHORT).content[0].text
    word = text.split()[1]
    stopped = client.messages.create(messages=QUESTION, stop_sequences=[word], **{**SHORT, "max_tokens": 20})
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)


@pytest.mark.parametrize(
    ("fields", "named", "error"),
    [
        ({"model": "absent"}, "absent", "NotFoundError"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "prompt is too long", "BadRequestError"),
        (
            {"messages": IMAGE},
            "text only",
            "BadRequestError",
        ),
        ({"extra_body": {"temperature": -1}}, "temperature", "BadRequestError"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "names no tool", "BadRequestError"),
    ],
    ids=["unknown model", "too long", "image", "temperature", "choice"],
)
def test_errors_have_its_shape(client: Any, fields: Any, named: str, error: str) -> None:
    with pytest.raises(getattr(anthropic, error), match=named) as caught:
        client.messages.create(**{**SHORT, "messages": QUESTION, **fields})
    assert caught.value.body["type"] == "error"


def _request(**fields: Any) -> Any:
    body = MessagesBody.model_validate({"messages": QUESTION, **fields})
    return messages_request(body, Caller("test", Visitor()))


def test_what_changes_with_every_request_is_taken_out() -> None:
    other: Any = {"name": "abc", "input_schema": STRICT}
    served: Any = {"type": "web_search_20250305", "name": "web_search"}
    said: Any = {"type": "text", "text": "Be."}
    bills = [[{"type": "text", "text": f"x-anthropic-billing-header: cch={n};"}, said] for n in "ab"]
    first = _request(system=bills[0], tools=[WEATHER, other, served])
    second = _request(system=bills[1], tools=[other, WEATHER])
    assert (first.messages, first.tools) == (second.messages, second.tools)
    assert first.messages[0].content == "Be."


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": SHAPE}},
        {"output_format": SHAPE},
        {"output_config": {"format": SHAPE, "effort": ""}},
    ],
    ids=["now", "beta", "with effort"],
)
def test_a_schema_is_a_grammar(fields: Any) -> None:
    assert json.loads(_request(**fields).grammar.text) == STRICT
    assert _request(output_config={"effort": "low"}).grammar is None
    with pytest.raises(BadRequest, match="output_config"):
        _request(output_config={"format": {"type": "yaml"}})


def test_the_events_of_a_stream_come_in_order() -> None:
    out = MessageStream()
    assert out.alive("loading").startswith(b": ")
    frames = b"".join(out(event) for event in EVENTS).split(b"\n\n")[:-1]
    shown = [json.loads(frame.split(b"data: ")[1]) for frame in frames]
    assert out.alive("working") == b'event: ping\ndata: {"type":"ping"}\n\n'
    kinds = [f"{e['type'].removeprefix('content_block_')}{e.get('index', '')}" for e in shown]
    blocks = "start0 delta0 delta0 stop0 start1 delta1 delta1 stop1 start2 delta2 delta2 stop2 start3 delta3 stop3"
    assert kinds == ["message_start", *blocks.split(), "message_delta", "message_stop"]
    assert shown[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    whole = message(EVENTS)["content"]
    assert [block["type"] for block in whole] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.get("input") for block in whole] == [None, None, {"x": 1}, {}]
