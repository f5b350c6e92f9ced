"""A tool call that a limit cuts short, in each dialect: never text, never whole, and the end says why."""

from __future__ import annotations

import json
from typing import Any

from localai.api import anthropic_out, ollama_out, openai_out
from localai.api.responses_in import ResponsesBody
from localai.api.responses_out import ResponseStream
from tests.turn_events import CUT


def test_openai_tells_it_as_far_as_it_came() -> None:
    choice = openai_out.chat(CUT)["choices"][0]
    calls = [call["function"]["arguments"] for call in choice["message"]["tool_calls"]]
    assert (choice["finish_reason"], choice["message"]["content"], calls) == ("length", None, ["{}", '{"x'])


def test_responses_call_it_incomplete() -> None:
    out = ResponseStream(ResponsesBody(input="x"))
    frames = b"".join(out(event) for event in CUT).split(b"\n\n")[:-1]
    shown: list[Any] = [json.loads(frame.split(b"data: ")[1]) for frame in frames]
    done = [e["item"]["status"] for e in shown if e["type"] == "response.output_item.done"]
    assert done == ["completed", "incomplete"]
    assert shown[-1]["type"] == "response.incomplete"
    assert [call.name for call in out.said.tool_calls] == ["f"]


def test_where_arguments_are_objects_it_is_left_out() -> None:
    message = anthropic_out.message(CUT)
    assert ([block["name"] for block in message["content"]], message["stop_reason"]) == (["f"], "max_tokens")
    lines = ollama_out.Lines("chat", "m")
    told = [json.loads(line) for line in b"".join(map(lines, CUT)).splitlines()]
    calls = [call["function"]["name"] for line in told for call in line["message"].get("tool_calls", [])]
    assert (calls, told[-1]["done_reason"]) == (["f"], "length")
