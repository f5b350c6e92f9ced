"""Our requests as an OpenAI-compatible server takes them, and its streamed chunks as our events. Pure.

What the client left open is left open here too: the other machine knows its models better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.contract import Alternative, FinishReason, TokenLogprob
from localai.errors import BadRequest
from localai.messages import ChoiceDone, Delta, Message, Tool, ToolCallDelta, TurnEvent, TurnRequest

Json = dict[str, Any]

PATHS = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}
MOST_CALLS = 256

_HERE_ONLY = {
    "backend": "an engine of this machine",
    "policy": "the choice among engines of this machine",
    "max_joules": "energy, which nobody measures there",
    "n_ctx": "the context of an engine of this machine",
    "prompt_logprobs": "the prompt's log-probabilities",
    "prompt_tokens": "token ids, which another machine's model numbers in its own way",
}
_REASONS: dict[str, FinishReason | str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "stop",
    "eos": "stop",
}


class NotUnderstood(Exception):
    """A chunk is not what the protocol says; the words tell what it lacks."""


def refuse_what_stays_here(request: TurnRequest) -> None:
    """Raises BadRequest for a field that another machine cannot honour: nothing is dropped silently."""
    for name, what in _HERE_ONLY.items():
        value = getattr(request, name)
        if value is not None and not (name == "backend" and value == "auto"):
            message = f"{name} is about {what}, and {request.model!r} is on another machine"
            raise BadRequest(message, "leave it out, or name a model that is here", param=name)
    if request.grammar is not None and request.grammar.kind == "lark":
        raise BadRequest("a lark grammar cannot be sent to another machine", "use a JSON schema", param="grammar")


def body_of(request: TurnRequest, model: str) -> Json:
    """The JSON to send for `request`, as `model` is called there."""
    if request.kind == "embedding":
        return {"model": model, "input": request.prompt or "", "encoding_format": "float"}
    body: Json = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: list(v) if isinstance(v, tuple) else v for name, v in request.sampling.items()}
    given: Json = {
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "n": request.n if request.n > 1 else None,
        "ignore_eos": request.ignore_eos or None,
    }
    body |= {name: value for name, value in given.items() if value is not None}
    if request.kind == "chat":
        return body | _chat(request)
    plain: Json = {"prompt": request.prompt or "", "suffix": request.suffix, "logprobs": request.logprobs}
    plain["echo"] = request.echo or None
    return body | {name: value for name, value in plain.items() if value is not None} | _grammar(request)


def _chat(request: TurnRequest) -> Json:
    body: Json = {"messages": [_message(message) for message in request.messages], **_grammar(request)}
    if request.tools:
        choice = request.tool_choice
        named = {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode
        body |= {"tools": [_tool(tool) for tool in request.tools], "tool_choice": named}
        body |= {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.think}
    return body


def _message(message: Message) -> Json:
    shown: Json = {"role": message.role, "content": message.content}
    if message.reasoning:
        shown["reasoning_content"] = message.reasoning
    if message.tool_calls:
        shown["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name}
    return shown | {name: value for name, value in optional.items() if value is not None}


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def _grammar(request: TurnRequest) -> Json:
    grammar = request.grammar
    if grammar is None:
        return {}
    if grammar.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if grammar.kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(grammar.text), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"grammar": grammar.text} if grammar.kind == "gbnf" else {"regex": grammar.text}


@dataclass(slots=True)
class Usage:
    """Tokens as the other machine counts them; None where it does not say."""

    prompt: int | None = None
    cached: int = 0
    completion: int | None = None


@dataclass(slots=True)
class ChunkReader:
    """Chunks of one answer in, events out. `kind` is the request's; `n` choices make the answer whole."""

    kind: str
    n: int
    usage: Usage = field(default_factory=Usage)
    _ended: set[int] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether every choice has ended."""
        return len(self._ended) >= self.n

    @property
    def open(self) -> list[int]:
        return [index for index in range(self.n) if index not in self._ended]

    def read(self, chunk: Json) -> list[TurnEvent]:
        """The events of one chunk, often none. Raises NotUnderstood."""
        self._count(chunk.get("usage"))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise NotUnderstood("a chunk has no list of choices")
        events: list[TurnEvent] = []
        for choice in choices:
            index = choice.get("index", 0) if isinstance(choice, dict) else None
            if not isinstance(index, int) or not 0 <= index < self.n:
                raise NotUnderstood("a chunk names a choice that was not asked for")
            if index in self._ended:
                continue
            delta = self._delta(choice, index)
            if delta is not None:
                events.append(delta)
            reason = choice.get("finish_reason")
            if reason is not None:
                self._ended.add(index)
                # A word that we do not know still ends the answer.
                events.append(ChoiceDone(index, _REASONS.get(str(reason), "stop")))  # type: ignore[arg-type]
        return events

    def _delta(self, choice: Json, index: int) -> Delta | None:
        if self.kind == "completion":
            text, scored = _text(choice, "text"), _columns(choice.get("logprobs"))
            return Delta(index, text, logprobs=scored) if text or scored else None
        said = choice.get("delta")
        if not isinstance(said, dict):
            raise NotUnderstood("a chunk has no delta")
        reasoning = _text(said, "reasoning_content") or _text(said, "reasoning")
        calls = tuple(_call(call) for call in said.get("tool_calls") or [])
        logprobs = choice.get("logprobs")
        scored = tuple(_scored(t) for t in (logprobs.get("content") or [])) if isinstance(logprobs, dict) else ()
        delta = Delta(index, _text(said, "content"), reasoning, calls, scored)
        return delta if delta.content or reasoning or calls or scored else None

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        self.usage.prompt = _number(usage.get("prompt_tokens"), self.usage.prompt)
        self.usage.completion = _number(usage.get("completion_tokens"), self.usage.completion)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self.usage.cached = _number(details.get("cached_tokens"), 0) or 0


def vector_of(answer: Any) -> tuple[tuple[float, ...], int | None]:
    """The one vector of an embeddings answer, scaled to length 1, and the prompt's tokens. Raises NotUnderstood."""
    try:
        vector = [float(number) for number in answer["data"][0]["embedding"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotUnderstood("the answer holds no vector") from error
    norm = sum(number * number for number in vector) ** 0.5
    if not vector or not 0 < norm < float("inf"):
        raise NotUnderstood("the answer's vector is empty or not finite")
    usage = answer.get("usage")
    return tuple(n / norm for n in vector), _number(usage.get("prompt_tokens"), None) if isinstance(
        usage, dict
    ) else None


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    if value is not None and not isinstance(value, str):
        raise NotUnderstood(f"{name} is no text")
    return value or ""


def _number(value: Any, otherwise: int | None) -> int | None:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if sound else otherwise


def _call(call: Any) -> ToolCallDelta:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise NotUnderstood("a tool call has no function")
    index, identity = call.get("index", 0), call.get("id")
    if not isinstance(index, int) or not 0 <= index < MOST_CALLS:
        raise NotUnderstood("a tool call has no sensible index")
    name = _text(function, "name") or None
    # Later pieces of a call carry neither; some servers repeat the id.
    return ToolCallDelta(index, str(identity) if identity and name else None, name, _text(function, "arguments"))


def _scored(token: Any) -> TokenLogprob:
    try:
        top = [Alternative(0, _piece(other), float(other["logprob"])) for other in token.get("top_logprobs") or []]
        value = token["logprob"]
        return TokenLogprob(0, _piece(token), None if value is None else float(value), top)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotUnderstood("a token's log-probability cannot be read") from error


def _piece(token: Json) -> bytes:
    given = token.get("bytes")
    return bytes(given) if isinstance(given, list) else str(token["token"]).encode("utf-8", "replace")


def _columns(logprobs: Any) -> tuple[TokenLogprob, ...]:
    """The older shape, by columns."""
    if not isinstance(logprobs, dict):
        return ()
    try:
        tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
        return tuple(
            TokenLogprob(
                0,
                str(text).encode("utf-8", "replace"),
                None if value is None else float(value),
                [Alternative(0, str(t).encode("utf-8", "replace"), float(p)) for t, p in (top or {}).items()],
            )
            for text, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotUnderstood("the log-probabilities cannot be read") from error
