"""Turn events to the events of /v1/responses, and to the response object that they lead to. Pure, but for the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from localai.api.error_shapes import openai
from localai.api.openai_out import timings
from localai.api.responses_in import ResponsesBody
from localai.api.wire import Frames, now
from localai.errors import LocalaiError
from localai.messages import ChoiceDone, Delta, Message, Started, Summary, ToolCall, ToolCallDelta, TurnEvent

_encode = msgspec.json.Encoder().encode
Json = dict[str, Any]


class ResponseStream(Frames):
    """Translates events; each thought, text and call is an output item, one open at a time.

    `response` is the object as far as it has come, `said` the assistant's message; whole once Summary was seen.
    """

    end = b""

    def __init__(self, body: ResponsesBody) -> None:
        self._number = 0
        self._item: Json | None = None
        self._text: list[str] = []
        self._reason = "stop"
        self._open = ""
        self._broken: frozenset[int] = frozenset()
        self._cut = False
        self._places: dict[int, int] = {}
        self.response: Json = _blank(body)

    @property
    def said(self) -> Message:
        """The answer as the next turn needs it."""
        output = self.response["output"]
        texts = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
        calls = [item for item in output if item["type"] == "function_call"]
        thoughts = [part["text"] for item in output if item["type"] == "reasoning" for part in item["content"]]
        made = tuple(ToolCall(call["call_id"], call["name"], call["arguments"]) for call in calls)
        return Message("assistant", "".join(texts), reasoning="".join(thoughts), tool_calls=made)

    def failed(self, error: LocalaiError) -> bytes:
        shown = openai(error)["error"]
        self.response |= {"status": "failed", "error": {"code": shown["code"], "message": shown["message"]}}
        return self._event("response.failed", response=self.response)

    def __call__(self, happened: TurnEvent) -> bytes:
        if isinstance(happened, Delta):
            return self._delta(happened)
        if isinstance(happened, Started):
            self.response |= {"id": f"resp_{happened.request}", "model": happened.model, "backend": happened.backend}
            begun = [self._event(f"response.{kind}", response=self.response) for kind in ("created", "in_progress")]
            return b"".join(begun)
        if isinstance(happened, ChoiceDone):
            self._reason, self._broken, self._cut = happened.reason, happened.broken, happened.cut
            return self._close()
        return self._finish(happened) if isinstance(happened, Summary) else b""

    def whole(self, events: Sequence[TurnEvent]) -> Json:
        """The response object at the end of `events`."""
        for event in events:
            self(event)
        return self.response

    def _delta(self, happened: Delta) -> bytes:
        out = b""
        if happened.reasoning:
            out += self._begin("reasoning", "reasoning", {"type": "reasoning", "summary": [], "content": []})
            out += self._part("reasoning_text", happened.reasoning)
        if happened.content:
            shown: Json = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}
            out += self._begin("message", "msg", shown)
            out += self._part("output_text", happened.content)
        for call in happened.tool_calls:
            out += self._call(call)
        return out

    def _call(self, call: ToolCallDelta) -> bytes:
        out = b""
        if call.id is not None:
            shown = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
            out = self._begin(f"call {call.index}", "fc", {**shown, "status": "in_progress"})
            self._places[call.index] = len(self.response["output"])
        if call.arguments:
            out += self._part("function_call_arguments", call.arguments)
        return out

    def _begin(self, name: str, prefix: str, item: Json) -> bytes:
        if self._open == name:
            return b""
        out = self._close()
        self._open = name
        self._item = {"id": f"{prefix}_{self.response['id'].removeprefix('resp_')}_{self._place}", **item}
        out += self._event("response.output_item.added", output_index=self._place, item=self._item)
        if item["type"] == "message":
            out += self._within("response.content_part.added", part=_text_part(""))
        return out

    @property
    def _place(self) -> int:
        return len(self.response["output"])

    def _part(self, kind: str, delta: str) -> bytes:
        self._text.append(delta)
        return self._within(f"response.{kind}.delta", delta=delta)

    def _close(self) -> bytes:
        """End the open item: its whole text, then itself."""
        if self._item is None:
            return b""
        item, text = self._item, "".join(self._text)
        if item["type"] == "function_call":
            out = self._within("response.function_call_arguments.done", arguments=text, name=item["name"])
            item |= {"arguments": text, "status": "incomplete" if self._cut else "completed"}
        elif item["type"] == "message":
            out = self._within("response.output_text.done", text=text)
            out += self._within("response.content_part.done", part=_text_part(text))
            item |= {"content": [_text_part(text)], "status": "completed"}
        else:
            out = self._within("response.reasoning_text.done", text=text)
            item |= {"content": [{"type": "reasoning_text", "text": text}]}
        out += self._event("response.output_item.done", output_index=self._place, item=item)
        self.response["output"].append(item)
        self._item, self._open, self._text = None, "", []
        return out

    def _finish(self, summary: Summary) -> bytes:
        cut = self._reason in ("length", "deadline")
        gone = [self._places[index] for index in self._broken if index in self._places]
        output = [item for place, item in enumerate(self.response["output"]) if place not in gone]
        status = "incomplete" if cut else "completed"
        self.response |= {
            "output": output,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": _usage(summary),
            "timings": timings(summary),
        }
        return self._event(f"response.{status}", response=self.response)

    def _within(self, kind: str, **fields: Any) -> bytes:
        assert self._item is not None
        where: Json = {"item_id": self._item["id"], "output_index": self._place}
        if self._item["type"] != "function_call":
            where["content_index"] = 0
        if kind.startswith("response.output_text"):
            where["logprobs"] = []
        return self._event(kind, **where, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        shown = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n".encode() + b"data: " + _encode(shown) + b"\n\n"


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(summary: Summary) -> Json:
    return {
        "input_tokens": summary.prompt_tokens,
        "input_tokens_details": {"cached_tokens": summary.cached_tokens},
        "output_tokens": summary.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
        "energy": summary.energy.as_json() if summary.energy else None,
    }


def _blank(body: ResponsesBody) -> Json:
    """A response to which nothing has happened yet."""
    return {
        "id": "",
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": body.reasoning or {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
    }
