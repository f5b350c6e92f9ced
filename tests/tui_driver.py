"""Drives the chat by keys against a daemon, and waits for what must show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tests.daemon_fixture import Daemon
from tui.app import ChatApp
from tui.turns import Turn

Driver = Pilot[None]
LONG_S = 60.0


def chat(daemon: Daemon, folder: Path, conversation: str | None = None, model: str | None = None) -> ChatApp:
    return ChatApp(daemon.client, conversation, model, folder=folder)


@asynccontextmanager
async def opened(app: ChatApp, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Driver]:
    async with app.run_test(size=size, notifications=True) as pilot:
        yield pilot


async def wait_until(pilot: Driver, true: Callable[[], object], seconds: float = LONG_S) -> None:
    """Wait for a condition rather than for a time, which is never the right one."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s; on the screen:\n{seen(pilot)}"
        await asyncio.sleep(0.01)
    await pilot.pause()


async def shows(pilot: Driver, *texts: str) -> None:
    await wait_until(pilot, lambda: all(text in seen(pilot) for text in texts))


async def say(pilot: Driver, text: str) -> None:
    app_of(pilot).chat.prompt.insert(text)
    await pilot.press("enter")


def app_of(pilot: Driver) -> ChatApp:
    assert isinstance(pilot.app, ChatApp)
    return pilot.app


def seen(pilot: Driver) -> str:
    """The characters on the screen, line by line."""
    app = pilot.app
    lines = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in line) for line in lines)


def idle(pilot: Driver) -> bool:
    return app_of(pilot).chat.reply is None


def turns(pilot: Driver, role: str = "assistant") -> list[Turn]:
    return [turn for turn in app_of(pilot).chat.transcript.turns if turn.role == role]


def answers(pilot: Driver) -> list[str]:
    return [turn.content for turn in turns(pilot) if turn.id]


async def answered(pilot: Driver, count: int = 1) -> None:
    await wait_until(pilot, lambda: idle(pilot) and len(answers(pilot)) == count)


def stored(daemon: Daemon, conversation: str | None) -> dict[str, Any]:
    return daemon.client.get(f"/localai/conversations/{conversation}")


def planted(daemon: Daemon, *said: tuple[str, str], title: str = "", model: str | None = None) -> str:
    """The id of a conversation with these messages, as (role, content)."""
    messages = [{"role": role, "content": content} for role, content in said]
    made = daemon.client.post("/localai/conversations/import", {"content": {"model": model, "messages": messages}})
    chat = made["conversations"][0]["id"]
    daemon.client.patch(f"/localai/conversations/{chat}", {"title": title or "Planted"})
    return str(chat)
