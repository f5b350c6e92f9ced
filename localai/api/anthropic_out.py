"""Turn events to Anthropic's answers: whole messages and the events of a stream. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from localai.api.error_shapes import anthropic
from localai.api.openai_out import timings
from localai.api.wire import Frames, comment
from localai.errors import LocalaiError
from localai.messages import ChoiceDone, Delta, Started, Summary, ToolCallDelta, TurnEvent, Waiting

_encode = msgspec.json.Encoder().encode
_STOPS = {"length": "max_tokens", "deadline": "max_tokens", "tool_calls": "tool_use"}


def event(kind: str, **fields: Any) -> bytes:
    """One named server-sent event."""
    return f"event: {kind}\n".encode() + b"data: " + _encode({"type": kind, **fields}) + b"\n\n"


def usage(summary: Summary) -> dict[str, Any]:
    """Anthropic counts what came from the cache apart."""
    return {
        "input_tokens": summary.prompt_tokens - summary.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": summary.cached_tokens,
        "output_tokens": summary.completion_tokens,
        "energy": summary.energy.as_json() if summary.energy else None,
    }


class MessageStream(Frames):
    """Translates events; each text, thought and call is a block of its own, one open at a time."""

    end = b""

    def __init__(self) -> None:
        self._begun = False
        self._blocks = 0
        self._open: str | None = None
        self._done: ChoiceDone | None = None

    def alive(self, stage: str, fraction: float | None = None) -> bytes:
        """A ping; before the message has begun, a comment, which every client skips."""
        return event("ping") if self._begun else comment(stage, fraction)

    def failed(self, error: LocalaiError) -> bytes:
        return event("error", error=anthropic(error)["error"])

    def __call__(self, happened: TurnEvent) -> bytes:
        if isinstance(happened, Delta):
            return self._delta(happened)
        if isinstance(happened, Waiting):
            return self.alive(happened.stage, happened.fraction)
        if isinstance(happened, Started):
            self._begun = True
            return event("message_start", message=_head(happened) | {"usage": _NO_USAGE})
        if isinstance(happened, ChoiceDone):
            self._done = happened
            return self._close()
        if isinstance(happened, Summary):
            assert self._done is not None
            return event("message_delta", delta=_stop(self._done), usage=usage(happened)) + event("message_stop")
        return b""

    def _delta(self, happened: Delta) -> bytes:
        out = b""
        if happened.reasoning:
            out += self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._part({"type": "thinking_delta", "thinking": happened.reasoning})
        if happened.content:
            out += self._block("text", {"type": "text", "text": ""})
            out += self._part({"type": "text_delta", "text": happened.content})
        for call in happened.tool_calls:
            out += self._call(call)
        return out

    def _call(self, call: ToolCallDelta) -> bytes:
        out = b""
        if call.id is not None:
            shown: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            out = self._block(f"call {call.index}", shown)
        if call.arguments:
            out += self._part({"type": "input_json_delta", "partial_json": call.arguments})
        return out

    def _block(self, name: str, shown: dict[str, Any]) -> bytes:
        if self._open == name:
            return b""
        out = self._close()
        self._open = name
        return out + event("content_block_start", index=self._blocks, content_block=shown)

    def _part(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        out = self._part({"type": "signature_delta", "signature": ""}) if self._open == "thinking" else b""
        out += event("content_block_stop", index=self._blocks)
        self._blocks += 1
        self._open = None
        return out


def message(events: Sequence[TurnEvent]) -> dict[str, Any]:
    """A whole message."""
    started = next(e for e in events if isinstance(e, Started))
    summary = next(e for e in events if isinstance(e, Summary))
    done = next(e for e in events if isinstance(e, ChoiceDone))
    blocks: list[dict[str, Any]] = []
    calls: dict[int, dict[str, Any]] = {}
    for each in (e for e in events if isinstance(e, Delta)):
        _add(blocks, "thinking", each.reasoning, {"signature": ""})
        _add(blocks, "text", each.content, {})
        for call in each.tool_calls:
            if call.id is not None:
                calls[call.index] = {"type": "tool_use", "id": call.id, "name": call.name, "input": ""}
                blocks.append(calls[call.index])
            calls[call.index]["input"] += call.arguments
    broken = [calls[index] for index in done.broken if index in calls]
    content = [_whole(block) for block in blocks if all(block is not b for b in broken)]
    spent = {"usage": usage(summary), "timings": timings(summary)}
    return _head(started) | {"content": content} | _stop(done) | spent


def _add(blocks: list[dict[str, Any]], kind: str, text: str, more: dict[str, Any]) -> None:
    if text and blocks and blocks[-1]["type"] == kind:
        blocks[-1][kind] += text
    elif text:
        blocks.append({"type": kind, kind: text, **more})


def _whole(block: dict[str, Any]) -> dict[str, Any]:
    """A call's input as the object that it spells; a limit may have cut it short."""
    if block["type"] != "tool_use":
        return block
    try:
        value = json.loads(block["input"] or "{}")
    except (ValueError, RecursionError):
        value = {}
    return block | {"input": value if isinstance(value, dict) else {}}


_NO_USAGE = {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}


def _head(started: Started) -> dict[str, Any]:
    return {
        "id": f"msg_{started.request}",
        "type": "message",
        "role": "assistant",
        "model": started.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(done: ChoiceDone) -> dict[str, Any]:
    reason = "stop_sequence" if done.stop else _STOPS.get(done.reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": done.stop}
