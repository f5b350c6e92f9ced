"""The daemon's JSON as frozen values, cleaned for the terminal; the chat's only place that knows its field names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from localai.client import ServerEvent
from tui.sanitize import clean


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """One message of an open conversation. `finish_reason` is None where an answer never ended."""

    id: str
    role: str
    content: str
    reasoning: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, with the messages of the branch that is shown."""

    id: str
    title: str
    model: str | None
    messages: tuple[ShownMessage, ...]


@dataclass(frozen=True, slots=True)
class ChatLine:
    """One conversation in a list; `updated` in Unix seconds."""

    id: str
    title: str
    updated: float


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
class Finished:
    """The model's side has ended: `stop`, `length`, `cancelled`, ..."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of the engine and its speed; None where it is not. Rates in tokens/s, times in ms."""

    model: str | None = None
    backend: str | None = None
    decode_tps: float | None = None
    ttft_ms: float | None = None
    used: int | None = None
    n_ctx: int | None = None


ReplyEvent = Created | Opened | Progress | Text | Finished | Figures


def chat_of(body: dict[str, Any]) -> Chat:
    return Chat(
        id=body["id"],
        title=one_line(body.get("title") or ""),
        model=body.get("model"),
        messages=tuple(_message_of(message) for message in body["messages"]),
    )


def chat_lines_of(body: dict[str, Any]) -> tuple[ChatLine, ...]:
    return tuple(
        ChatLine(chat["id"], one_line(chat.get("title") or "Untitled"), float(chat["updated"]))
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


def one_line(text: str) -> str:
    return " ".join(clean(text).split())


def _message_of(message: dict[str, Any]) -> ShownMessage:
    return ShownMessage(
        id=message["id"],
        role=message["role"],
        content=clean(message["content"]),
        reasoning=clean(message.get("reasoning") or ""),
        finish_reason=message.get("finish_reason"),
    )


def _frame_events(frame: dict[str, Any]) -> Iterator[ReplyEvent]:
    if frame.get("type") == "message":
        user = frame.get("user")
        yield Opened(user["id"] if user else None, frame["assistant"]["id"])
        return
    for choice in frame.get("choices") or ():
        delta = choice.get("delta") or {}
        content, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        if content or reasoning:
            yield Text(clean(content), clean(reasoning))
        if choice.get("finish_reason"):
            yield Finished(str(choice["finish_reason"]))
    if frame.get("usage") or frame.get("timings") or frame.get("backend"):
        yield _figures_of(frame)


def _figures_of(frame: dict[str, Any]) -> Figures:
    usage, timings = frame.get("usage") or {}, frame.get("timings") or {}
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Figures(
        model=frame.get("model"),
        backend=frame.get("backend"),
        decode_tps=timings.get("decode_tps"),
        ttft_ms=timings.get("ttft_ms"),
        used=None if asked is None or answered is None else asked + answered,
        n_ctx=frame.get("n_ctx"),
    )
