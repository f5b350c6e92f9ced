"""Anthropic's request bodies to `TurnRequest`. Unknown fields are ignored, known ones checked; pure.

What changes with every request and means nothing is taken out, so that the beginning of a prompt stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.contract import Grammar
from localai.api.caller import Caller
from localai.api.openai_in import Count, MaxJoules, ModelName, Whole
from localai.api.schemas import schema_grammar
from localai.errors import BadRequest
from localai.messages import Message, Tool, ToolCall, ToolChoice, TurnRequest

_BILLING = "x-anthropic-billing-header"
_MOST_STOPS = 16

Block = dict[str, Any]


class MessageBody(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolBody(BaseModel):
    """A function. Tools that Anthropic's servers would run have a type of their own and no schema."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ChoiceBody(BaseModel):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingBody(BaseModel):
    type: str


class CountBody(BaseModel):
    """POST /v1/messages/count_tokens: what a prompt is made of."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: ModelName = ""
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ChoiceBody | None = None
    thinking: ThinkingBody | None = None


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Count | None = None
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    output_config: dict[str, Any] | None = Field(None, description="`format` is a JSON schema that the answer matches")
    output_format: dict[str, Any] | None = Field(None, description="The older name of `output_config.format`")
    max_joules: MaxJoules = None


def count_request(body: CountBody, caller: Caller) -> TurnRequest:
    """Raises BadRequest for what a text model cannot take."""
    tools = tools_of(body.tools)
    choice = body.tool_choice or ChoiceBody()
    system = _system(body.system)
    said = [message for place, each in enumerate(body.messages) for message in _messages(each, place)]
    return TurnRequest(
        kind="chat",
        model=body.model,
        messages=tuple([Message("system", system)] * bool(system) + said),
        tools=tools,
        tool_choice=_tool_choice(choice, tools),
        parallel_tool_calls=not choice.disable_parallel_tool_use,
        think=_think(body.thinking),
        app=caller.app,
        trusted=caller.trusted,
    )


def messages_request(body: MessagesBody, caller: Caller) -> TurnRequest:
    """The same with how to answer."""
    stops = tuple(stop for stop in body.stop_sequences or () if stop)
    if len(stops) > _MOST_STOPS:
        raise BadRequest(f"{len(stops)} stop sequences", f"send at most {_MOST_STOPS}", param="stop_sequences")
    values = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    sampling = {name: value for name, value in values.items() if value is not None}
    return replace(
        count_request(body, caller),
        max_tokens=body.max_tokens,
        stop=stops,
        sampling=sampling,
        grammar=_grammar((body.output_config or {}).get("format") or body.output_format),
        max_joules=body.max_joules,
    )


def tools_of(bodies: Sequence[ToolBody] | None) -> tuple[Tool, ...]:
    """Functions by name, whatever order they came in: agents collect them anew for each request."""
    own = [body for body in bodies or [] if body.input_schema is not None or body.type in (None, "custom")]
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    made = [Tool(body.name, body.description or "", body.input_schema or empty) for body in own]
    return tuple(sorted(made, key=lambda tool: tool.name))


def _tool_choice(choice: ChoiceBody, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice.type == "none" or not tools:
        return ToolChoice("none")
    if choice.type == "auto":
        return ToolChoice("auto")
    if choice.type == "any":
        return ToolChoice("required")
    if all(tool.name != choice.name for tool in tools):
        offered = ", ".join(tool.name for tool in tools)
        raise BadRequest(f"tool_choice names no tool: {choice.name!r}", f"tools: {offered}", param="tool_choice")
    return ToolChoice("required", choice.name)


def _think(body: ThinkingBody | None) -> bool | None:
    return {"enabled": True, "disabled": False}.get(body.type) if body else None


def _grammar(shape: Any) -> Grammar | None:
    if not shape:
        return None
    if isinstance(shape, dict) and shape.get("type") == "json_schema" and isinstance(shape.get("schema"), dict):
        return schema_grammar(shape["schema"])
    raise BadRequest("output_config.format cannot be honoured", "send json_schema with a schema", param="output_config")


def _system(value: str | list[Block] | None) -> str:
    blocks = [value] if isinstance(value, str) else [_text(block, "system") for block in value or []]
    return "\n\n".join(text for text in blocks if text and not text.lstrip().lower().startswith(_BILLING))


def _messages(body: MessageBody, place: int) -> list[Message]:
    """One message, and before it the tool results that it carries."""
    where = f"messages[{place}]"
    blocks = [{"type": "text", "text": body.content}] if isinstance(body.content, str) else body.content
    results, texts, thoughts, calls = [], [], [], []
    for block in blocks:
        kind = block.get("type")
        if kind == "tool_result":
            results.append(_result(block, where))
        elif kind == "tool_use":
            calls.append(_call(block, where))
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        elif kind != "redacted_thinking":
            texts.append(_text(block, where))
    said = Message(body.role, "\n".join(texts), reasoning="\n".join(thoughts), tool_calls=tuple(calls))
    return results + ([said] if texts or calls or thoughts or not results else [])


def _call(block: Block, where: str) -> ToolCall:
    name, arguments = block.get("name"), block.get("input")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise BadRequest(f"{where} has a tool_use without name or input", "send both", param="messages")
    return ToolCall(str(block.get("id") or ""), name, json.dumps(arguments))


def _result(block: Block, where: str) -> Message:
    content = block.get("content") or ""
    if not isinstance(content, str | list):
        raise BadRequest(f"{where} has a tool_result of another type", "send text, or blocks", param="messages")
    text = content if isinstance(content, str) else "\n".join(_text(part, where) for part in content)
    if block.get("is_error"):
        text = f"error: {text}"
    return Message("tool", text, tool_call_id=str(block.get("tool_use_id") or ""))


def _text(block: Any, where: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    text = block.get("text") if isinstance(block, dict) else None
    if kind != "text" or not isinstance(text, str):
        raise BadRequest(
            f"{where} has a block of type {kind!r}, and this model takes text only",
            "describe the content in words, or send it to a model that has eyes",
            param="messages",
        )
    return text
