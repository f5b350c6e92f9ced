"""Ollama's request bodies to `TurnRequest`. Unknown fields are ignored, known ones checked; pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from backends.contract import Grammar
from localai.api.caller import Caller
from localai.api.ollama_context import unpack
from localai.api.openai_in import Count, MaxJoules, ModelName, SamplingBody, ToolBody, tools_of
from localai.api.schemas import schema_grammar
from localai.errors import BadRequest
from localai.messages import Message, Role, Tool, ToolCall, ToolChoice, TurnRequest, new_id

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+)")
_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

KeepAlive = float | str | None


class OptionsBody(SamplingBody):
    """`options`: Ollama's names where they differ from the common ones; what only tunes its own engine is ignored."""

    num_predict: int | None = None

    def fields(self) -> dict[str, Any]:
        """Fields of a TurnRequest. A limit of 0 or less is no limit, a negative seed no seed."""
        common = self.common()
        limit = self.num_predict if self.num_predict is not None else self.max_tokens
        common["max_tokens"] = limit if limit is not None and limit > 0 else None
        if (self.seed or 0) < 0:
            common["sampling"].pop("seed")
        return common | {"n": 1}


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: ModelName = Field("", validation_alias=AliasChoices("model", "name"))
    stream: bool | None = None
    options: OptionsBody | None = None
    keep_alive: KeepAlive = None


class _Generating(_Body):
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_joules: MaxJoules = None


class CalledBody(BaseModel):
    name: str
    arguments: dict[str, Any] | str = {}


class CallBody(BaseModel):
    id: str | None = None
    function: CalledBody


class MessageBody(BaseModel):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[CallBody] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatBody(_Generating):
    """POST /api/chat."""

    messages: list[MessageBody] | None = None
    tools: list[ToolBody] | None = None


class GenerateBody(_Generating):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Count] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class EmbedBody(_Body):
    """POST /api/embed, and /api/embeddings with `prompt`."""

    input: str | list[str] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None


def library_name(name: str) -> str:
    """A model's name without what Ollama's clients add to it."""
    name = name.removesuffix(":latest")
    for prefix in ("hf.co/", "huggingface.co/"):
        if name.startswith(prefix):
            return "hf:" + name.removeprefix(prefix)
    return name


def chat_request(body: ChatBody, caller: Caller) -> TurnRequest:
    """Raises BadRequest for what a text model cannot take. Without messages, it is a wish to load the model."""
    tools: tuple[Tool, ...] = tools_of(body.tools)
    return TurnRequest(
        kind="chat",
        messages=_messages(body.messages or []),
        tools=tools,
        tool_choice=ToolChoice("auto" if tools else "none"),
        **_common(body, caller),
    )


def generate_request(body: GenerateBody, caller: Caller) -> TurnRequest:
    """A turn of the packed conversation, or with `raw` or `suffix` a plain continuation."""
    _refuse_images(body.images, "the request")
    common = _common(body, caller)
    if body.template:
        hint = "leave it out, or send the whole prompt with `raw`"
        raise BadRequest("another prompt template cannot be used", hint, param="template")
    if body.raw or body.suffix:
        common["priority"] = "interactive" if body.suffix else common["priority"]
        return TurnRequest(kind="completion", prompt=body.prompt or "", suffix=body.suffix or None, **common)
    said = unpack(body.context) if body.context else ()
    if body.system and all(message.role != "system" for message in said):
        said = (Message("system", body.system), *said)
    asked = (Message("user", body.prompt),) if body.prompt else ()
    return TurnRequest(kind="chat", messages=(*said, *asked) if asked else (), **common)


def embed_requests(body: EmbedBody, caller: Caller) -> list[TurnRequest]:
    """One request per text, none where nothing is to be embedded. Raises BadRequest for too many."""
    given = body.input if body.input is not None else body.prompt
    # Ollama's clients send nothing at all to have the model loaded.
    texts = [given] * bool(given) if isinstance(given, str) else given or []
    if len(texts) > 2048:
        raise BadRequest(f"`input` has {len(texts)} entries", "send at most 2048 at a time", param="input")
    usual = load_request(body, caller)
    return [replace(usual, prompt=text, together=len(texts), id=new_id()) for text in texts]


def load_request(body: EmbedBody, caller: Caller) -> TurnRequest:
    """A wish for the model alone."""
    return TurnRequest(
        kind="embedding",
        model=library_name(body.model),
        keep_alive=seconds(body.keep_alive),
        app=caller.app,
        trusted=caller.trusted,
    )


def _common(body: _Generating, caller: Caller) -> dict[str, Any]:
    fields = (body.options or OptionsBody.model_validate({})).fields()
    return fields | {
        "model": library_name(body.model),
        "grammar": _grammar(body.format),
        "think": think_of(body.think),
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "keep_alive": seconds(body.keep_alive),
        "max_joules": body.max_joules,
        "app": caller.app,
        "trusted": caller.trusted,
    }


def seconds(value: KeepAlive) -> float | None:
    """Seconds of a number or of a duration such as 5m, 1h30m or -1; None for the usual time. Raises BadRequest."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except ValueError as error:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            hint = "send seconds, or a duration such as 5m"
            raise BadRequest(f"keep_alive is {value!r}", hint, param="keep_alive") from error
        number = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(match[2]))
        return -number if match[1] else number
    if not math.isfinite(number):
        raise BadRequest(f"keep_alive is {value!r}", "send seconds; -1 is for ever", param="keep_alive")
    return number


def think_of(value: bool | str | None) -> bool | None:
    """Whether to think; an effort (low, medium, high) is a yes."""
    if isinstance(value, str):
        return value.lower() not in ("", "false", "none", "off")
    return value


def _grammar(value: str | dict[str, Any] | None) -> Grammar | None:
    if value is None or value == "":
        return None
    if isinstance(value, dict):
        return schema_grammar(value)
    if value == "json":
        return Grammar("json_object", "")
    raise BadRequest(f"format {value!r} is not known", 'send "json", or a JSON schema', param="format")


def _messages(bodies: Sequence[MessageBody]) -> tuple[Message, ...]:
    """Calls without an id get one; results without one belong to the first open call of that tool."""
    out: list[Message] = []
    still_open: list[ToolCall] = []
    for place, body in enumerate(bodies):
        _refuse_images(body.images, f"messages[{place}]")
        if body.role not in _ROLES:
            raise BadRequest(
                f"messages[{place}] has the role {body.role!r}", f"use one of: {', '.join(_ROLES)}", param="messages"
            )
        calls = tuple(_call(call, f"call_{place}_{n}") for n, call in enumerate(body.tool_calls or []))
        call_id = None
        if body.role == "tool":
            call_id = body.tool_call_id or _answered(still_open, body.tool_name)
            still_open = [call for call in still_open if call.id != call_id]
        else:
            still_open = list(calls)
        out.append(
            Message(
                _ROLES[body.role],
                body.content or "",
                reasoning=body.thinking or "",
                tool_calls=calls,
                tool_call_id=call_id,
                name=body.tool_name,
            )
        )
    return tuple(out)


def _answered(calls: Sequence[ToolCall], tool: str | None) -> str | None:
    named = [call.id for call in calls if call.name == tool]
    return next(iter(named or [call.id for call in calls]), None)


def _call(body: CallBody, call_id: str) -> ToolCall:
    given = body.function.arguments
    return ToolCall(body.id or call_id, body.function.name, given if isinstance(given, str) else json.dumps(given))


def _refuse_images(images: list[Any] | None, where: str) -> None:
    if images:
        raise BadRequest(
            f"{where} has images, and this model takes text only",
            "describe them in words, or send them to a model that has eyes",
            param="images",
        )
