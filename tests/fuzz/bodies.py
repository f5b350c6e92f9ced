"""Bodies of each dialect, whole ones with changes anywhere in them, through what reads them.

A dialect's name leads to its parsers: each takes the bytes of a body, and may raise nothing but a refusal.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from localai.api import anthropic_in, llamacpp_in, ollama_in, openai_in, responses_in
from localai.api.caller import Caller
from localai.api.visitor import Visitor
from localai.api.wire import read_json
from localai.errors import LocalaiError

_WHO = Caller("fuzz", Visitor(owner=True))
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_SAID = [
    {"role": "system", "content": "a"},
    {"role": "user", "content": [{"type": "text", "text": "b"}]},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "1"},
]
_ASKED = _SAID[1:2]


@dataclass(frozen=True, slots=True)
class Parser:
    """One body's way in: its shape, what makes requests of it, and whole bodies to begin from."""

    body: type[BaseModel]
    make: Callable[[Any, Caller], Any]
    seeds: Sequence[dict[str, Any]]

    def names(self) -> list[str]:
        return [*self.body.model_fields]


DIALECTS: dict[str, list[Parser]] = {
    "openai": [
        Parser(
            openai_in.ChatBody,
            openai_in.chat_request,
            [
                {"messages": _SAID, "n": 2, "stop": ["x"]},
                {"messages": _ASKED, "tools": [_TOOL], "tool_choice": {"function": {"name": "f"}}},
                {"messages": _ASKED, "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
                {"messages": _ASKED, "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
            ],
        ),
        Parser(
            openai_in.CompletionBody,
            openai_in.completion_requests,
            [{"prompt": [[1, 2], [3]], "suffix": "s", "logprobs": 2, "echo": True, "logit_bias": {"1": -5}}],
        ),
        Parser(openai_in.EmbeddingBody, openai_in.embedding_requests, [{"input": ["a", "b"], "dimensions": 2}]),
    ],
    "anthropic": [
        Parser(
            anthropic_in.MessagesBody,
            anthropic_in.messages_request,
            [
                {
                    "max_tokens": 5,
                    "system": [{"type": "text", "text": "x-anthropic-billing-header: 1"}],
                    "messages": [
                        {"role": "user", "content": [{"type": "text", "text": "a"}]},
                        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1"}]},
                    ],
                    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                    "tool_choice": {"type": "tool", "name": "f"},
                    "thinking": {"type": "enabled"},
                }
            ],
        )
    ],
    "ollama": [
        Parser(
            ollama_in.ChatBody,
            ollama_in.chat_request,
            [
                {
                    "messages": [*_SAID[:1], {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
                    "options": {"num_ctx": 512, "stop": ["x"], "num_predict": -1},
                    "keep_alive": "1h5m",
                    "format": {"type": "object"},
                    "think": "high",
                    "tools": [_TOOL],
                }
            ],
        ),
        Parser(
            ollama_in.GenerateBody,
            ollama_in.generate_request,
            [{"prompt": "a", "suffix": "b", "context": [1, 2], "raw": True, "system": "s", "format": "json"}],
        ),
        Parser(ollama_in.EmbedBody, ollama_in.embed_requests, [{"input": ["a"], "keep_alive": -1}]),
    ],
    "llamacpp": [
        Parser(
            llamacpp_in.CompletionBody,
            llamacpp_in.completion_request,
            [{"prompt": [1, "a"], "n_predict": -1, "json_schema": {"type": "object"}, "response_fields": ["a/b"]}],
        ),
        Parser(
            llamacpp_in.InfillBody,
            llamacpp_in.infill_request,
            [{"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "c", "text": "d"}]}],
        ),
        Parser(
            llamacpp_in.RerankBody, lambda body, _: body.texts(), [{"query": "a", "documents": ["b", {"text": "c"}]}]
        ),
    ],
    "responses": [
        Parser(
            responses_in.ResponsesBody,
            lambda body, who: responses_in.responses_request(body, (), who),
            [
                {
                    "input": [
                        {"role": "developer", "content": "a"},
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "b"}]},
                        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                        {"type": "function_call_output", "call_id": "c", "output": [{"type": "text", "text": "1"}]},
                    ],
                    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
                    "tool_choice": {"type": "function", "name": "f"},
                    "text": {"format": {"type": "json_schema", "schema": {}}},
                    "reasoning": {"effort": "low"},
                }
            ],
        )
    ],
}

_WORDS = ["type", "text", "name", "role", "function", "content", "arguments", "schema", "tool", "id", "json_schema"]
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 3),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from([*_WORDS, "function", "auto", "user", "tool", "", "\0", "\ud800", "9" * 400]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn, dialect: str) -> tuple[int, bytes]:
    """The number of a parser of `dialect`, and a body that is mostly right for it; now and then with broken bytes."""
    number = draw(st.integers(0, len(DIALECTS[dialect]) - 1))
    parser = DIALECTS[dialect][number]
    body = copy.deepcopy(draw(st.sampled_from(list(parser.seeds))))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(body))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.integers(0, 3)):
            case 0:
                del holder[key]
            case 1:
                body[draw(st.sampled_from(parser.names()))] = draw(_VALUES)
            case _:
                holder[key] = draw(_VALUES)
    raw = bytearray(json.dumps(body).encode())
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=1)):
        if draw(st.integers(0, 7)) == 0:
            raw[place] = byte
    return number, bytes(raw)


def read(dialect: str, number: int, raw: bytes) -> object:
    """What the parser makes of `raw`; None for a refusal. Whatever else is raised is a fault."""
    parser = DIALECTS[dialect][number]
    try:
        return parser.make(parser.body.model_validate(read_json(raw)), _WHO)
    except (LocalaiError, ValidationError):
        return None


def _places(value: Any) -> Any:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(children):
        yield value, key
        yield from _places(child)
