"""The daemon's JSON as frozen values, cleaned for the terminal; the chat's only place that knows its field names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from localai.client import ServerEvent
from localai.errors import LocalaiError
from localai.sanitize import clean, one_line


@dataclass(frozen=True, slots=True)
class UsedMemory:
    """A memory that an answer was given: its id, its source as kind:name, how far that is trusted (0 to 1)."""

    id: str
    source: str
    trust: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of how an answer was made; None where it is not. Rates in tokens/s, times in ms, energy in J.

    `cached` are tokens found in the KV cache by tier; `used` are those of the context, counted where `exact`.
    `stopped` tells why the daemon ended the answer before the model did, `memory_fallback` by what memories were found
    where not as it is set.
    """

    model: str | None = None
    backend: str | None = None
    reason: str | None = None
    decode_tps: float | None = None
    ttft_ms: float | None = None
    used: int | None = None
    exact: bool = True
    n_ctx: int | None = None
    joules: float | None = None
    quality: str | None = None
    cached: tuple[tuple[str, int], ...] | None = None
    memories: tuple[UsedMemory, ...] | None = None
    stopped: str | None = None
    memory_fallback: str | None = None

    def updated(self, newer: Figures) -> Figures:
        """These, with what `newer` knows."""
        known = {f.name: v for f in fields(newer) if (v := getattr(newer, f.name)) is not None}
        known["exact"] = self.exact if newer.used is None else newer.exact
        return replace(self, **known)

    def before_an_answer(self) -> Figures:
        """What also holds for the next answer."""
        return Figures(model=self.model, backend=self.backend, used=self.used, exact=self.exact, n_ctx=self.n_ctx)

    def in_context(self, room: Figures) -> Figures:
        """These, with how full the context is by `room`."""
        return replace(self, used=room.used or self.used, exact=room.exact, n_ctx=room.n_ctx or self.n_ctx)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants to be called, with its arguments as JSON, perhaps unfinished.

    `result` is what came of it where the daemon called it, `ok` whether that went well.
    """

    name: str
    arguments: str
    result: str = ""
    ok: bool = True


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """One message of an open conversation. `finish_reason` is None where an answer never ended."""

    id: str
    parent: str | None
    role: str
    content: str
    reasoning: str
    finish_reason: str | None
    figures: Figures
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, with the messages of the branch that is shown; `room` tells how full its context is."""

    id: str
    title: str
    model: str | None
    system: str
    messages: tuple[ShownMessage, ...]
    room: Figures


@dataclass(frozen=True, slots=True)
class ChatLine:
    """One conversation in a list; `updated` in Unix seconds. `found` are the words that a search found in it."""

    id: str
    title: str
    updated: float
    pinned: bool
    found: str


@dataclass(frozen=True, slots=True)
class Created:
    """The conversation that the first message needed now exists."""

    conversation: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The daemon has stored the question (None where there was none to store) and begins the answer."""

    user: str | None
    assistant: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing to read yet: what is waited for, and how far it is (0 to 1, None unknown)."""

    stage: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Text:
    """New text of the answer."""

    content: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Called:
    """A piece of tool call number `index`: its name comes first, then its arguments."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolAsked:
    """The daemon waits for leave to make a call, and goes on when it has an answer."""

    call: str
    tool: str
    server: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolUsed:
    """A call that the daemon made for the model, or was not let."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Finished:
    """The model's side has ended: `stop`, `length`, `cancelled`, ..."""

    reason: str


ReplyEvent = Created | Opened | Progress | Text | Called | ToolAsked | ToolUsed | Finished | Figures


@contextmanager
def understood() -> Iterator[None]:
    """Raises LocalaiError where JSON of the daemon is not as this module knows it: it may be of another version."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise LocalaiError(
            "the daemon's answer is not understood: it may be of another version", "`localai stop`, then try again"
        ) from error


def version_text(daemon: str, chat: str) -> str:
    """What to say about a daemon of another version; "" where it is the same."""
    if daemon == chat:
        return ""
    return (
        f"The daemon is version {one_line(daemon)}, this chat {chat}. What both know works; "
        "`localai stop` and a new start make them one."
    )


def chat_of(body: dict[str, Any]) -> Chat:
    return Chat(
        id=body["id"],
        title=one_line(body.get("title") or ""),
        model=body.get("model"),
        system=body.get("system") or "",
        messages=tuple(_message_of(message) for message in body["messages"]),
        room=_room_of(body.get("context") or {}),
    )


def _room_of(room: dict[str, Any]) -> Figures:
    return Figures(used=room.get("used"), exact=bool(room.get("exact", True)), n_ctx=room.get("n_ctx"))


def chat_lines_of(body: dict[str, Any]) -> tuple[ChatLine, ...]:
    return tuple(
        ChatLine(
            chat["id"],
            one_line(chat.get("title") or "Untitled"),
            float(chat["updated"]),
            bool(chat.get("pinned")),
            one_line((chat.get("found") or {}).get("snippet") or ""),
        )
        for chat in body["conversations"]
    )


def reply_events(event: ServerEvent) -> Iterator[ReplyEvent]:
    """What one event of an answer's stream says, in order."""
    if event.comment is not None:
        yield progress_of(event.comment)
    elif event.data is not None:
        yield from _frame_events(event.data)


def progress_of(comment: str) -> Progress:
    """`loading 0.4` or a stage alone."""
    stage, _, last = comment.strip().rpartition(" ")
    try:
        return Progress(one_line(stage or "waiting"), min(1.0, max(0.0, float(last))))
    except ValueError:
        return Progress(one_line(comment.strip() or "waiting"), None)


def _message_of(message: dict[str, Any]) -> ShownMessage:
    return ShownMessage(
        id=message["id"],
        parent=message.get("parent"),
        role=message["role"],
        content=clean(message["content"]),
        reasoning=clean(message.get("reasoning") or ""),
        finish_reason=message.get("finish_reason"),
        calls=tuple(map(_used_of, (message.get("figures") or {}).get("tools") or ())),
        figures=figures_of({**(message.get("figures") or {}), **{n: message.get(n) for n in ("model", "usage")}}),
    )


def _used_of(frame: dict[str, Any]) -> ToolCall:
    return ToolCall(one_line(frame["tool"]), clean(frame["arguments"]), clean(frame["shown"]), bool(frame["ok"]))


def _frame_events(frame: dict[str, Any]) -> Iterator[ReplyEvent]:
    if frame.get("type") == "message":
        user = frame.get("user")
        yield Opened(user["id"] if user else None, frame["assistant"]["id"])
        return
    if frame.get("type") == "tool_asked":
        tool, server = one_line(frame["tool"]), one_line(frame["server"])
        yield ToolAsked(frame["call"], tool, server, clean(frame["arguments"]))
    elif frame.get("type") == "tool_used":
        yield ToolUsed(_used_of(frame))
    for choice in frame.get("choices") or ():
        delta = choice.get("delta") or {}
        content, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        if content or reasoning:
            yield Text(clean(content), clean(reasoning))
        for call in delta.get("tool_calls") or ():
            said = call.get("function") or {}
            yield Called(call["index"], one_line(said.get("name") or ""), clean(said.get("arguments") or ""))
        if choice.get("finish_reason"):
            yield Finished(str(choice["finish_reason"]))
    if frame.get("usage") or frame.get("timings") or frame.get("backend"):
        yield figures_of(frame)


def figures_of(frame: dict[str, Any]) -> Figures:
    """From the last frame of an answer, or from what is stored with it."""
    usage, timings = frame.get("usage") or {}, frame.get("timings") or {}
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    energy, cached, memories = usage.get("energy") or {}, timings.get("cached"), frame.get("memories")
    return Figures(
        model=frame.get("model"),
        backend=frame.get("backend"),
        reason=None if frame.get("reason") is None else one_line(frame["reason"]),
        decode_tps=timings.get("decode_tps"),
        ttft_ms=timings.get("ttft_ms"),
        used=None if asked is None or answered is None else asked + answered,
        n_ctx=frame.get("n_ctx"),
        joules=energy.get("joules"),
        quality=energy.get("quality"),
        stopped=one_line(timings.get("stopped") or energy.get("stopped") or "") or None,
        cached=None if cached is None else tuple((one_line(tier), int(n)) for tier, n in cached.items()),
        memories=None
        if memories is None
        else tuple(UsedMemory(m["id"], one_line(m["source"]), float(m["trust"])) for m in memories),
        memory_fallback=one_line(frame.get("memory_fallback") or "") or None,
    )
