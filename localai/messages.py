"""What a person or program asks, and what an answer consists of, whatever the dialect it came in.

Frozen values that pass between the stages of `turn`; the API modules translate to and from JSON.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.contract import FinishReason, Grammar, Priority, TokenLogprob
from backends.guesses import Speculation
from localai.energy.figures import Energy
from localai.halting import Halt

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `tool_call_id` and `name` belong to the role `tool`."""

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`none`: never call; `auto`: as the model likes; `required`: at least one; `name` set: this one."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """Why model `auto` means this model for this query.

    `category` is what the query was taken for, with `probability`. `accuracy` is expected, and `accuracy_lost` against
    the `largest` model; `joules` and `largest_joules` are predicted, of one `quality`. `times` is how many times the
    joules of this very request the largest model would take, 0 for a request that it would not need. `check` tells how
    the answer was checked, '' where it was not, and `requests` how many requests that took.
    """

    reason: str
    category: str = ""
    probability: float | None = None
    accuracy: float | None = None
    accuracy_lost: float | None = None
    joules: float | None = None
    largest: str = ""
    largest_joules: float | None = None
    quality: str = "none"
    times: float | None = None
    check: str = ""
    requests: int = 1


def new_id() -> str:
    """A request's name."""
    return secrets.token_hex(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One request, in any dialect. Exactly one of `messages`, `prompt`, `prompt_tokens` is given.

    `sampling` holds the fields of `contract.Sampling` that the client set; the model's recommendation fills the rest.
    `trusted` requests came from this user's own socket, and may name files.

    `together` requests came as one, to be answered side by side.

    `id` is this request's own name, `parent` that of the request for which it was made, as a tool call or a sample.
    `max_joules` ends the answer early.
    `memory` is the namespace to recall from, None to recall nothing.
    `neighbours` are names and texts of files beside the one that `suffix` belongs to, the nearest last.
    `fallback` says why this model answers instead of the one on another machine that was asked for.
    `picked` says why model `auto` means this one.
    Requests of different `cache_salt` share nothing in the KV cache. `halt` is how who asked ends the answer early.

    `max_tokens` None means up to the end of the context. `logprobs` is None, or how many alternatives per token.
    `speculation` is who may guess tokens ahead, None for the default. `repetition_stop` lets the setting of that name
    end an answer that goes round in circles.
    `think` is None where the client did not say. `keep_alive` is seconds, negative for ever, None for the default.
    """

    kind: Literal["chat", "completion", "embedding"]
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    prompt_tokens: tuple[int, ...] | None = None
    suffix: str | None = None
    echo: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    grammar: Grammar | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    think: bool | None = None
    priority: Priority = "normal"
    deadline: float | None = None
    backend: str | None = None
    policy: str | None = None
    together: int = 1
    n_ctx: int | None = None
    keep_alive: float | None = None
    conversation: str | None = None
    app: str = ""
    trusted: bool = False
    id: str = field(default_factory=new_id)
    parent: str | None = None
    max_joules: float | None = None
    memory: str | None = None
    speculation: Speculation | None = None
    repetition_stop: bool = True
    neighbours: tuple[tuple[str, str], ...] = ()
    fallback: str = ""
    picked: Picked | None = None
    cache_salt: str = ""
    halt: Halt | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: the first piece of call `index` carries id and name, later ones only arguments."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of choice `index`."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to say yet: `stage` is what is being waited for, `fraction` how far it is (0 to 1, None unknown)."""

    stage: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class UsedMemory:
    """A memory that the model was shown: its id, its source as kind:name, and how far that is trusted (0 to 1)."""

    id: str
    source: str
    trust: float


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was recalled for this answer, best first; `fallback` is what the memory did without, and why."""

    memories: tuple[UsedMemory, ...]
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class FromCache:
    """No engine ran: the answer is that of an earlier question, so alike (cosine) and so many seconds old."""

    likeness: float
    age_s: float
    category: str


@dataclass(frozen=True, slots=True)
class Started:
    """The engine that serves is known. `request` is the request's id. `cached` says that an earlier answer serves.

    `n_ctx` is 0 where another machine serves and does not tell; `fallback` is why it does not.
    """

    model: str
    backend: str
    reason: str
    n_ctx: int
    request: str = ""
    cached: FromCache | None = None
    fallback: str = ""
    picked: Picked | None = None


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log-probabilities of the prompt's tokens, in order, for `echo` and `prompt_logprobs`."""

    tokens: tuple[TokenLogprob, ...]
    prompt: str


@dataclass(frozen=True, slots=True)
class ChoiceDone:
    """Choice `index` has ended. `reason` is the engine's, or `tool_calls`.

    `broken` are the indexes of calls that were begun and then turned out to be text, which came as content; where
    `cut`, the last of them is the beginning of a call that this end cut short, and no text.
    """

    index: int
    reason: FinishReason | Literal["tool_calls"]
    stop: str | None = None
    broken: frozenset[int] = frozenset()
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """A unit vector of shape (width,)."""

    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds and tokens per second of one request. `ttft_ms` includes queue, load and restore.

    `draft_n` tokens were guessed ahead, and `draft_n_accepted` of them right. `speculation` tells who guessed: lookup,
    draft, lookup+draft, or off, and then `speculation_reason` says why. `stopped` tells why an answer was ended
    that had no end of its own, and had not reached its limit.
    """

    queue_ms: float
    load_ms: float
    restore_ms: float
    ttft_ms: float | None
    prefill_ms: float
    decode_ms: float
    prefill_tps: float | None
    decode_tps: float | None
    total_ms: float
    cached: dict[str, int] = field(default_factory=dict)
    draft_n: int = 0
    draft_n_accepted: int = 0
    speculation: str = "off"
    speculation_reason: str = ""
    paging: dict[str, Any] | None = None
    stopped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The last event: what it took. `counted` is False where another machine did not tell how many tokens it were."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: Timings
    energy: Energy | None = None
    counted: bool = True


@dataclass(frozen=True, slots=True)
class ToolAsked:
    """The user must say whether the daemon may make this call; `request` is the one in which the model made it."""

    call: str
    tool: str
    server: str
    arguments: str
    request: str


@dataclass(frozen=True, slots=True)
class ToolUsed:
    """A call that the daemon made for the model, or why not. `shown` is what the model is told, and untrusted.

    `joules` is this call's share of the `request` in which the model made it, None where unknown.
    """

    call: str
    tool: str
    server: str
    arguments: str
    shown: str
    ok: bool
    request: str
    joules: float | None


TurnEvent = Waiting | Started | Recalled | Delta | PromptScored | ChoiceDone | Embedded | ToolAsked | ToolUsed | Summary
