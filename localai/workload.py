"""What a request will take, guessed before anything is tokenized: its text in, a Workload out. Pure."""

from __future__ import annotations

from localai.forecast import Workload
from localai.messages import TurnRequest

_BYTES_PER_TOKEN = 4.0
_PER_MESSAGE = 6
"""Tokens that a template puts around a message."""
_ANSWER = {"chat": 256, "completion": 128, "embedding": 0}
_STRUCTURED = 96
"""Answer tokens to expect at most, where the client set no lower limit: few answers reach their limit."""


def text_of(request: TurnRequest) -> str:
    """All that the engine will read, in order, so that a longer conversation begins like a shorter one."""
    if request.kind == "chat":
        tools = "".join(f"{tool.name}{tool.description}{tool.parameters}" for tool in request.tools)
        return tools + "".join(f"\n{m.role}:{m.content}{m.reasoning}" for m in request.messages)
    if request.prompt_tokens is not None:
        return " ".join(map(str, request.prompt_tokens))
    return (request.prompt or "") + (request.suffix or "")


def tokens_in(text: str) -> int:
    """About how many tokens a text has."""
    return max(1, round(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN))


def workload(request: TurnRequest, text: str) -> Workload:
    """`text` is `text_of(request)`."""
    if request.prompt_tokens is not None:
        prompt = max(1, len(request.prompt_tokens))
    else:
        prompt = tokens_in(text) + _PER_MESSAGE * (1 + len(request.messages))
    expected = _STRUCTURED if request.grammar is not None else _ANSWER[request.kind]
    answer = expected if request.max_tokens is None else min(expected, request.max_tokens)
    if request.ignore_eos and request.max_tokens is not None:
        answer = request.max_tokens
    return Workload(
        prompt=prompt,
        answer=answer,
        prompts=request.together,
        choices=request.n,
        embeds=request.kind == "embedding",
    )
