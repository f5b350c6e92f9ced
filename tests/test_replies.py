"""Answers that are written down while they come: stopped by a person, left by their reader; and how full a talk is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from localai.api.replies import Replies
from localai.conversation_room import room
from localai.conversations import Conversations, StoredMessage
from localai.errors import NotFound
from localai.halting import Halt
from localai.messages import ChoiceDone, Delta, Started, TurnEvent


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Conversations]:
    store = Conversations(tmp_path / "conversations.db")
    yield store
    store.close()


def opened(kept: Conversations) -> StoredMessage:
    chat = kept.create()
    asked = kept.append(chat.id, None, "user", "go")
    return kept.append(chat.id, asked.id, "assistant", "")


async def endless(halt: Halt, waiting: asyncio.Event, *, told: bool) -> AsyncGenerator[TurnEvent, None]:
    """Words until it is told to end, where it can be told at all."""
    ended = asyncio.Event()
    yield Started("m", "echo", "why", 512, "r")
    yield Delta(0, "word ")
    if not told:
        waiting.set()
        await asyncio.Event().wait()
    async with halt.reaches(ended.set):
        waiting.set()
        await ended.wait()
        yield Delta(0, "last")
        yield ChoiceDone(0, "cancelled")


@pytest.mark.parametrize("told", [True, False], ids=["an engine works on it", "none does yet"])
async def test_a_stopped_answer_goes_to_its_last_event(kept: Conversations, told: bool) -> None:
    message, halt, replies, waiting = opened(kept), Halt(), Replies(kept), asyncio.Event()
    seen = []
    async with aclosing(replies.begin(endless(halt, waiting, told=told), message, halt).events()) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, Delta) and event.content == "word ":
                await waiting.wait()
                assert replies.stop(message.conversation) == 1
    assert isinstance(seen[-1], ChoiceDone)
    stored = kept.message(message.id)
    assert (stored.content, stored.finish_reason) == ("word last" if told else "word ", "cancelled")
    assert stored.figures is not None
    assert stored.figures["n_ctx"] == 512
    assert replies.stop(message.conversation) == 0


async def test_an_answer_without_a_reader_ends_with_its_figures(kept: Conversations) -> None:
    message, halt, replies, waiting = opened(kept), Halt(), Replies(kept), asyncio.Event()
    reply = replies.begin(endless(halt, waiting, told=True), message, halt)
    async with aclosing(reply.events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                await waiting.wait()
                break
    await reply.task
    assert kept.message(message.id).content == "word last"


async def test_what_fails_reaches_the_reader(kept: Conversations) -> None:
    async def failing() -> AsyncGenerator[TurnEvent, None]:
        yield Delta(0, "part")
        raise NotFound("it is gone", "look elsewhere")

    message, halt, replies = opened(kept), Halt(), Replies(kept)
    with pytest.raises(NotFound):
        async for _ in replies.begin(failing(), message, halt).events():
            pass
    assert (kept.message(message.id).content, kept.message(message.id).finish_reason) == ("part", "error")
    await replies.close()


def said(role: str, content: str, tokens: int | None = None, n_ctx: int | None = None, model: str = "m") -> Any:
    usage = None if tokens is None else {"prompt_tokens": tokens - 1, "completion_tokens": 1}
    answered = role == "assistant"
    return StoredMessage(
        id="",
        conversation="",
        parent=None,
        role=role,  # type: ignore[arg-type]
        content=content,
        reasoning="",
        model=model if answered else None,
        finish_reason=None,
        usage=usage,
        created=0.0,
        figures={"n_ctx": n_ctx} if n_ctx else None,
    )


TALK = [said("user", "x" * 40), said("assistant", "y" * 40, 90, 512), said("user", "z" * 40)]


@pytest.mark.parametrize(
    ("path", "model", "served", "expected"),
    [
        ([], None, {}, (0, True, None)),
        (TALK[:2], "m", {}, (90, True, 512)),
        (TALK[:2], "m", {"m": 1024}, (90, True, 1024)),
        (TALK[:2], "other", {}, (90, True, None)),
        (TALK, None, {}, (101, False, 512)),
        (TALK[2:], "m", {"m": 64}, (11, False, 64)),
        ([*TALK, said("assistant", "w" * 8)], "m", {}, (104, False, 512)),
    ],
    ids=["empty", "counted", "served now", "another model", "asked since", "never counted", "stopped early"],
)
def test_how_full_the_context_is(
    path: list[StoredMessage], model: str | None, served: dict[str, int], expected: tuple[int, bool, int | None]
) -> None:
    found = room(path, "", model, served)
    assert (found["used"], found["exact"], found["n_ctx"]) == expected
