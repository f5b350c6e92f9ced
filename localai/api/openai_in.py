"""OpenAI request bodies to `TurnRequest`. Unknown fields are ignored, known ones checked; llama-server's extras too."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from backends.contract import Grammar, Priority, Sampling
from backends.guesses import Speculation
from localai.api.caller import Caller
from localai.api.schemas import schema_grammar
from localai.api.tool_choice import allowed_of, tool_choice_of
from localai.errors import BadRequest, Forbidden
from localai.messages import Message, Role, Tool, ToolCall, TurnRequest

_MAX_STOPS = 16
_NEVER = -1000.0
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

ModelName = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Limit = Annotated[int, Field(ge=-1, le=2**31 - 1, description="-1 is no limit, as for llama-server and LM Studio")]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""What fits into a frame; the engine knows the sensible range of each parameter."""
MaxJoules = Annotated[float | None, Field(gt=0, description="End the answer at so many joules")]


class StreamOptions(BaseModel):
    include_usage: bool = False


class SamplingBody(BaseModel):
    """What every generating request may carry; the names are OpenAI's, then llama-server's."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: ModelName = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    max_tokens: Limit | None = Field(None, validation_alias=AliasChoices("max_completion_tokens", "max_tokens"))
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = Field(None, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty"))
    repeat_last_n: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Whole | None = None
    dry_penalty_last_n: Whole | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: Whole | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: Whole | None = None
    logit_bias: dict[Count, float] | None = None
    ignore_eos: bool = False
    grammar: str | None = Field(None, description="GBNF, as llama-server takes it")
    regex: str | None = Field(None, description="A regular expression that the whole answer must match")
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    priority: Priority | None = None
    deadline: Annotated[float, Field(gt=0, le=86_400)] | None = Field(None, description="Seconds until it must end")
    keep_alive: float | None = Field(None, description="Seconds that the model stays loaded; negative is for ever")
    max_joules: MaxJoules = None
    parent_id: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Id of the answer for which this is asked, as a tool call or a sample"
    )
    cache_salt: Annotated[str, Field(max_length=64)] = Field(
        "", description="Share the KV cache only with requests of the same salt"
    )
    num_ctx: Annotated[int, Field(ge=0, le=2**24)] | None = None
    backend: str | None = Field(None, description="Engine to use, or `auto`")
    policy: str | None = Field(None, description="How `auto` chooses: balanced, fastest or frugal")
    repetition_stop: bool = Field(True, description="False lets an answer repeat itself up to its limit")
    speculation: Speculation | None = Field(None, description="Who guesses tokens ahead: auto, lookup, draft or off")
    memory: bool | Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="Recall from the memory: true, or a namespace; on the Unix socket only"
    )

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """llama-server takes a list of pairs too, where false means never."""
        if not isinstance(value, list):
            return value
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) for pair in value):
            raise ValueError("send pairs of a token's id and its bias; /tokenize tells the ids of a text")
        return {token: _NEVER if bias is False else bias for token, bias in value}

    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        """The fields of `contract.Sampling` that were sent."""
        names = set(Sampling.__struct_fields__) - {"logit_bias", "dry_sequence_breakers"}
        values: dict[str, Any] = {k: v for k in names if (v := getattr(self, k)) is not None}
        if self.dry_sequence_breakers is not None:
            values["dry_sequence_breakers"] = tuple(self.dry_sequence_breakers)
        if self.logit_bias:
            values["logit_bias"] = self.logit_bias
        return values

    def stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > _MAX_STOPS:
            raise BadRequest(f"{len(stops)} stop strings", f"send at most {_MAX_STOPS}", param="stop")
        return tuple(s for s in stops if s)

    def namespace(self, usual: str) -> str | None:
        """What to recall from; `usual` where the client said no more than "yes"."""
        return (usual if self.memory is True else self.memory) or None

    def common(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sampling": self.sampling(),
            "max_tokens": None if self.max_tokens == -1 else self.max_tokens,
            "stop": self.stops(),
            "n": self.n or 1,
            "ignore_eos": self.ignore_eos,
            "prompt_logprobs": self.prompt_logprobs,
            "priority": self.priority or "normal",
            "deadline": self.deadline,
            "keep_alive": self.keep_alive,
            "n_ctx": self.num_ctx,
            "backend": self.backend,
            "policy": self.policy,
            "max_joules": self.max_joules,
            "speculation": self.speculation,
            "repetition_stop": self.repetition_stop,
            "parent": self.parent_id and self.parent_id.rpartition("-")[2],
            "cache_salt": self.cache_salt,
        }


class FunctionBody(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(BaseModel):
    type: Literal["function"] = "function"
    function: FunctionBody


class CalledFunction(BaseModel):
    name: str
    arguments: str | dict[str, Any] = "{}"


class CallBody(BaseModel):
    id: str | None = None
    type: str = "function"
    function: CalledFunction


class MessageBody(BaseModel):
    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Count] | list[list[Count]] = ""
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbeddingBody(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: ModelName = ""
    input: str | list[str] | list[Count] | list[list[Count]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    keep_alive: float | None = None
    backend: str | None = None
    policy: str | None = None


def chat_request(body: ChatBody, caller: Caller) -> TurnRequest:
    """Raises BadRequest for what a text model cannot take."""
    messages = tuple(_message(m, i) for i, m in enumerate(body.messages))
    tools = allowed_of(body.tool_choice, tools_of(body.tools))
    return TurnRequest(
        kind="chat",
        messages=messages,
        tools=tools,
        tool_choice=tool_choice_of(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        grammar=_format_grammar(body.response_format) or plain_grammar(body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        think=_think(body),
        app=caller.app,
        trusted=caller.trusted,
        memory=_memory(body, caller),
        **body.common(),
    )


def _memory(body: SamplingBody, caller: Caller) -> str | None:
    if not body.memory:
        return None
    if not caller.visitor.may("memory-read"):
        raise Forbidden(
            "memories are recalled for this user's own programs, or with a token of scope memory-read",
            "connect to run/localai.sock in the data folder, or leave `memory` out",
        )
    return caller.visitor.namespace(body.memory if isinstance(body.memory, str) else None)


def completion_requests(body: CompletionBody, caller: Caller) -> list[TurnRequest]:
    """One request per prompt."""
    prompts = _prompts(body.prompt, "prompt")
    return [
        TurnRequest(
            kind="completion",
            suffix=body.suffix,
            echo=bool(body.echo),
            grammar=plain_grammar(body),
            logprobs=body.logprobs,
            app=caller.app,
            trusted=caller.trusted,
            together=len(prompts),
            **_scored(body),
            **prompt,
        )
        for prompt in prompts
    ]


def embedding_requests(body: EmbeddingBody, caller: Caller) -> list[TurnRequest]:
    """One request per input."""
    prompts = _prompts(body.input, "input")
    return [
        TurnRequest(
            kind="embedding",
            model=body.model,
            keep_alive=body.keep_alive,
            backend=body.backend,
            policy=body.policy,
            app=caller.app,
            trusted=caller.trusted,
            together=len(prompts),
            **prompt,
        )
        for prompt in prompts
    ]


def _scored(body: CompletionBody) -> dict[str, Any]:
    """With `echo`, log-probabilities cover the prompt too."""
    common = body.common()
    if body.suffix is not None and body.priority is None:
        # Nobody fills a middle but somebody who types.
        common["priority"] = "interactive"
    if body.echo and body.logprobs is not None and common["prompt_logprobs"] is None:
        common["prompt_logprobs"] = body.logprobs
    return common


def _prompts(value: str | list[str] | list[int] | list[list[int]], param: str) -> list[dict[str, Any]]:
    items: list[Any] = [value] if isinstance(value, str) or (value and isinstance(value[0], int)) else list(value)
    if not items:
        raise BadRequest(f"`{param}` is empty", "send a text, or a list of texts", param=param)
    if len(items) > 2048:
        raise BadRequest(f"`{param}` has {len(items)} entries", "send at most 2048 at a time", param=param)
    return [{"prompt": i} if isinstance(i, str) else {"prompt_tokens": tuple(i)} for i in items]


def _message(body: MessageBody, index: int) -> Message:
    if body.role not in _ROLES:
        known = ", ".join(_ROLES)
        raise BadRequest(f"messages[{index}] has the role {body.role!r}", f"use one of: {known}", param="messages")
    return Message(
        role=_ROLES[body.role],
        content=_text(body.content, index),
        reasoning=body.reasoning_content or body.reasoning or "",
        tool_calls=tuple(_call(c) for c in body.tool_calls or []),
        tool_call_id=body.tool_call_id,
        name=body.name,
    )


def _text(content: str | list[dict[str, Any]] | None, index: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"messages[{index}] has a part of type {kind!r}, and this model takes text only",
                "describe the content in words, or send it to a model that has eyes",
                param="messages",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _call(body: CallBody) -> ToolCall:
    arguments = body.function.arguments
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(body.id or "", body.function.name, text or "{}")


def tools_of(bodies: list[ToolBody] | None) -> tuple[Tool, ...]:
    """The functions that a request offers."""
    return tuple(_tool(body.function) for body in bodies or [])


def _tool(body: FunctionBody) -> Tool:
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    return Tool(body.name, body.description or "", body.parameters or empty, bool(body.strict))


def _format_grammar(value: dict[str, Any] | None) -> Grammar | None:
    if value is None or value.get("type") == "text":
        return None
    kind = value.get("type")
    if kind == "json_object":
        schema = value.get("schema")
        return schema_grammar(schema) if isinstance(schema, dict) else Grammar("json_object", "")
    if kind == "json_schema":
        shape = value.get("json_schema")
        schema = shape.get("schema") if isinstance(shape, dict) else None
        if isinstance(schema, dict):
            return schema_grammar(schema)
    raise BadRequest(
        f"response_format {kind!r} cannot be honoured",
        "send text, json_object, or json_schema with json_schema.schema",
        param="response_format",
    )


def plain_grammar(body: SamplingBody) -> Grammar | None:
    """A grammar or expression that was sent as text."""
    if body.grammar:
        return Grammar("gbnf", body.grammar)
    return Grammar("regex", body.regex) if body.regex else None


def _think(body: ChatBody) -> bool | None:
    given = (body.chat_template_kwargs or {}).get("enable_thinking")
    if isinstance(given, bool):
        return given
    return None if body.reasoning_effort is None else body.reasoning_effort not in ("none", "minimal")
