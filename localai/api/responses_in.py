"""OpenAI's /v1/responses bodies to `TurnRequest`. Unknown fields and items are ignored, known ones checked; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from backends.contract import Grammar
from localai.api.caller import Caller
from localai.api.openai_in import Count, MaxJoules, ModelName
from localai.api.schemas import schema_grammar
from localai.api.tool_choice import allowed_of, tool_choice_of
from localai.errors import BadRequest
from localai.messages import Message, Role, Tool, ToolCall, TurnRequest

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")

Item = dict[str, Any]


class ResponsesBody(BaseModel):
    """POST /v1/responses."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: ModelName = ""
    input: str | list[Item]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: list[Item] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    max_joules: MaxJoules = None


def responses_request(body: ResponsesBody, earlier: Sequence[Message], caller: Caller) -> TurnRequest:
    """A turn after the messages of earlier responses. Raises BadRequest for what a text model cannot take."""
    tools = tuple(sorted((_tool(t) for t in body.tools or [] if t.get("type") == "function"), key=lambda t: t.name))
    tools = allowed_of(body.tool_choice, tools)
    values = {"temperature": body.temperature, "top_p": body.top_p}
    messages = (*earlier, *messages_of(body.input, len(earlier)))
    if body.instructions:
        messages = (Message("system", body.instructions), *messages)
    return TurnRequest(
        kind="chat",
        model=body.model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice_of(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        grammar=_grammar(body.text),
        max_tokens=body.max_output_tokens,
        sampling={name: value for name, value in values.items() if value is not None},
        think=_think(body.reasoning),
        max_joules=body.max_joules,
        app=caller.app,
        trusted=caller.trusted,
    )


def messages_of(given: str | Sequence[Item], before: int = 0) -> tuple[Message, ...]:
    """The items of `input`; a thought, a text and calls that follow one another are one message."""
    if isinstance(given, str):
        return (Message("user", given),)
    out: list[Message] = []
    for place, item in enumerate(given):
        kind, where = item.get("type") or "message", f"input[{place}]"
        if kind == "message":
            out.append(_message(item, where))
        elif kind == "reasoning":
            _join(out, Message("assistant", "", reasoning=_text(item.get("content") or item.get("summary"), where)))
        elif kind == "function_call":
            _join(out, Message("assistant", "", tool_calls=(_call(item, where),)))
        elif kind == "function_call_output":
            out.append(Message("tool", _text(item.get("output"), where), tool_call_id=str(item.get("call_id") or "")))
        elif kind == "item_reference":
            hint = "send the items themselves, or previous_response_id"
            raise BadRequest(f"{where} refers to an item by its id", hint, param="input")
    if not out and not before:
        raise BadRequest("`input` says nothing", "send a text, or messages", param="input")
    return tuple(out)


def _message(item: Item, where: str) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequest(f"{where} has the role {role!r}", f"use one of: {', '.join(_ROLES)}", param="input")
    return Message(_ROLES[role], _text(item.get("content"), where))


def _join(out: list[Message], new: Message) -> None:
    """Add to the assistant's turn that is open, or begin one."""
    if out and out[-1].role == "assistant" and not (new.reasoning and (out[-1].tool_calls or out[-1].content)):
        last = out[-1]
        joined = "\n".join(filter(None, (last.reasoning, new.reasoning)))
        out[-1] = replace(last, reasoning=joined, tool_calls=(*last.tool_calls, *new.tool_calls))
    else:
        out.append(new)


def _call(item: Item, where: str) -> ToolCall:
    name, arguments = item.get("name"), item.get("arguments") or "{}"
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise BadRequest(f"{where} is a call without a name or arguments", "send both as texts", param="input")
    return ToolCall(str(item.get("call_id") or ""), name, arguments)


def _text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXTS or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"{where} has a part of type {kind!r}, and this model takes text only",
                "describe the content in words, or send it to a model that has eyes",
                param="input",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _tool(item: Item) -> Tool:
    name, parameters = item.get("name"), item.get("parameters")
    if not isinstance(name, str) or not name:
        raise BadRequest("a function of `tools` has no name", "give it one", param="tools")
    shape = parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}}
    return Tool(name, str(item.get("description") or ""), shape, bool(item.get("strict")))


def _grammar(text: dict[str, Any] | None) -> Grammar | None:
    shape = (text or {}).get("format") or {"type": "text"}
    kind = shape.get("type") if isinstance(shape, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar("json_object", "")
    if kind == "json_schema" and isinstance(shape.get("schema"), dict):
        return schema_grammar(shape["schema"])
    hint = "send text, json_object, or json_schema with a schema"
    raise BadRequest(f"text.format {kind!r} cannot be honoured", hint, param="text.format")


def _think(reasoning: dict[str, Any] | None) -> bool | None:
    effort = (reasoning or {}).get("effort")
    return None if effort is None else effort not in ("none", "minimal")
