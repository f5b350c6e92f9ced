"""OpenAI's own client on /v1/responses, unchanged, against a real daemon with a real model; and its events in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from localai.api.kept_responses import KeptResponses
from localai.api.responses_in import ResponsesBody, messages_of
from localai.api.responses_out import ResponseStream
from localai.errors import NotFound
from localai.messages import Message
from tests.daemon_fixture import Daemon
from tests.turn_events import EVENTS, STRICT

QUESTION = "What is the capital of France?"
SHORT: Any = {"model": "starter", "max_output_tokens": 5, "temperature": 0}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": STRICT, "strict": True}


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0, timeout=150) as made:
        yield made


def test_an_answer_streams_to_the_same_response(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=QUESTION, instructions="Be brief.", **SHORT)
    events = list(client.responses.create(input=QUESTION, instructions="Be brief.", stream=True, **SHORT))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text != ""
    assert whole.usage is not None
    assert (whole.status, whole.usage.output_tokens) == ("incomplete", 5)
    assert "energy" in (whole.usage.model_extra or {})


def test_a_response_is_continued_by_its_id(client: openai.OpenAI) -> None:
    first = client.responses.create(input="My name is Ada.", instructions="Be brief.", **SHORT)
    more = client.responses.create(input="Who am I?", previous_response_id=first.id, **SHORT)
    said: Any = [
        {"role": "user", "content": "My name is Ada."},
        *first.to_dict()["output"],
        {"role": "user", "content": "Who am I?"},
    ]
    same = client.responses.create(input=said, **SHORT)
    assert more.usage is not None
    assert same.usage is not None
    assert more.usage.input_tokens == same.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.create(input="x", previous_response_id=first.id, **SHORT)


def test_a_forced_call_and_its_result(client: openai.OpenAI) -> None:
    asked: Any = {
        **SHORT,
        "max_output_tokens": 60,
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    made = client.responses.create(input=QUESTION, **asked)
    (call,) = [item for item in made.output if item.type == "function_call"]
    assert list(json.loads(call.arguments)) == ["city"]
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    after = client.responses.create(input=result, previous_response_id=made.id, tools=[WEATHER], **SHORT)
    assert after.output_text


def test_an_answer_has_the_asked_form(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "c", "schema": STRICT}}
    text = client.responses.create(input=QUESTION, text=form, **{**SHORT, "max_output_tokens": 40}).output_text
    assert list(json.loads(text)) == ["city"]


def test_the_events_of_a_stream_come_in_order() -> None:
    out = ResponseStream(ResponsesBody(input="x"))
    frames = b"".join(out(event) for event in EVENTS).split(b"\n\n")[:-1]
    shown = [json.loads(frame.split(b"data: ")[1]) for frame in frames]
    kinds = [event["type"].removeprefix("response.") for event in shown]
    item = ["output_item.added", "output_item.done"]
    assert kinds[:2] + kinds[-1:] == ["created", "in_progress", "completed"]
    assert [k for k in kinds if k in item] == item * 4
    assert kinds.count("function_call_arguments.done") == 2
    assert [i["type"] for i in shown[-1]["response"]["output"]] == ["reasoning", "message", *["function_call"] * 2]
    assert (out.said.content, out.said.reasoning) == ("Well.", "hm")
    assert [call.arguments for call in out.said.tool_calls] == ['{"x": 1}', "{}"]


def test_items_that_follow_one_another_are_one_message() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "web_search_call", "id": "1"},
        call,
        {**call, "call_id": "b"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]
    user, said, result = messages_of(items)
    assert (user.role, said.reasoning, [c.id for c in said.tool_calls]) == ("user", "hm", ["a", "b"])
    assert (result.role, result.tool_call_id) == ("tool", "a")


@pytest.mark.parametrize(("most", "characters"), [(2, 1000), (100, 25)], ids=["count", "size"])
def test_the_oldest_responses_go_first(most: int, characters: int) -> None:
    kept = KeptResponses(most, characters)
    for name in "abc":
        kept.add({"id": name}, [Message("user", "x" * 10)])
    with pytest.raises(NotFound):
        kept.get("a")
    kept.drop("b")
    assert kept.get("c").response == {"id": "c"}
