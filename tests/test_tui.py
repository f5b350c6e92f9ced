"""The chat screen, driven by real keys against a real server on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Collapsible, Markdown

from localai.client import Client
from localai.errors import EngineFailed, Unavailable
from tests.chat_server import ChatServer, Script, serving
from tests.daemon_fixture import free_port
from tui.app import ChatApp
from tui.chooser import Chooser
from tui.help import Help
from tui.prompt import Prompt
from tui.sanitize import clean
from tui.status import StatusLine
from tui.transcript import Answer, Earlier, Notice, Question, Transcript

Driver = Pilot[None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.db"


@pytest.fixture
def server(path: Path) -> Iterator[ChatServer]:
    with serving(path) as running:
        yield running


def chat(server: ChatServer, conversation: str | None = None) -> ChatApp:
    return ChatApp(Client(base_url=server.url), conversation)


@asynccontextmanager
async def opened(app: ChatApp, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Driver]:
    async with app.run_test(size=size) as pilot:
        yield pilot


async def wait_until(pilot: Driver, true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition rather than for a time, which is never the right one."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s; on the screen:\n{seen(pilot)}"
        await asyncio.sleep(0.01)
    await pilot.pause()


async def say(pilot: Driver, text: str) -> None:
    pilot.app.query_one(Prompt).insert(text)
    await pilot.press("enter")


def seen(pilot: Driver) -> str:
    """The characters on the screen, line by line."""
    app = pilot.app
    lines = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in line) for line in lines)


def idle(pilot: Driver) -> bool:
    assert isinstance(pilot.app, ChatApp)
    return pilot.app._reply is None


async def answered(pilot: Driver, count: int = 1) -> None:
    await wait_until(pilot, lambda: idle(pilot) and len(pilot.app.query(Answer)) == count)


def answers(pilot: Driver) -> list[str]:
    return [answer.content for answer in pilot.app.query(Answer)]


async def test_a_question_is_answered_and_kept(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await say(pilot, "Hi [bold]you[/bold]")
        await answered(pilot)
        await wait_until(pilot, lambda: "localai · Hi [bold]you[/bold]" in seen(pilot))
        screen = seen(pilot)
    assert "Hello there" in screen
    assert "starter · llama.cpp · 45.5 tok/s · TTFT 0.21 s · 42/2048 tokens" in screen
    stored = server.store.path(server.store.list()[0].head or "")
    assert [(m.role, m.content) for m in stored] == [("user", "Hi [bold]you[/bold]"), ("assistant", "Hello there")]


async def test_text_appears_while_it_is_written(server: ChatServer) -> None:
    server.script = Script(pieces=["first", " second"], hold=0)
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "first" in seen(pilot))
        assert "second" not in seen(pilot)
        assert "answering" in seen(pilot)
        server.script.released.set()
        await answered(pilot)
        assert "first second" in seen(pilot)


async def test_escape_stops_and_keeps_the_part(server: ChatServer) -> None:
    server.script = Script(pieces=["part", " rest"], hold=0)
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "part" in seen(pilot))
        await pilot.press("escape")
        await answered(pilot)
        assert answers(pilot) == ["part"]
        assert "stopped" in seen(pilot)
        assert await asyncio.to_thread(server.gone.wait, 60)
        await wait_until(pilot, lambda: server.store.path(server.store.list()[0].head or "")[-1].finish_reason)
    assert server.store.path(server.store.list()[0].head or "")[-1].finish_reason == "cancelled"


async def test_again_replaces_the_answer_with_a_sibling(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        server.script = Script(pieces=["Another"])
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["Another"])
    question = server.store.path(server.store.list()[0].head or "")[0]
    assert [m.content for m in server.store.children(question.id)] == ["Hello there", "Another"]


async def test_a_new_conversation_leaves_the_old_one_alone(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await say(pilot, "one")
        await answered(pilot)
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not answers(pilot))
        await say(pilot, "two")
        await answered(pilot)
    assert [(c.title, c.messages) for c in server.store.list()] == [("two", 2), ("one", 2)]


async def test_leaving_an_answer_for_a_new_conversation_stops_it(server: ChatServer) -> None:
    server.script = Script(hold=0)
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "Hello" in seen(pilot))
        await pilot.press("ctrl+n")
        assert await asyncio.to_thread(server.gone.wait, 60)
        await wait_until(pilot, lambda: idle(pilot) and not answers(pilot))
        assert "New conversation" in seen(pilot)


async def test_an_earlier_conversation_is_chosen_and_continued(server: ChatServer) -> None:
    kept = server.store.create(title="[red]Kept[/red]")
    asked = server.store.append(kept.id, None, "user", "before")
    server.store.append(kept.id, asked.id, "assistant", "**old** words", reasoning="why", finish_reason="length")
    async with opened(chat(server)) as pilot:
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Chooser))
        assert "[red]Kept[/red]" in seen(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: "old words" in seen(pilot))
        assert "cut at the token limit" in seen(pilot)
        await say(pilot, "more")
        await answered(pilot, 2)
    assert len(server.store.path(server.store.get(kept.id).head or "")) == 4


async def test_a_restart_shows_the_conversation_again(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await say(pilot, "remember me")
        await answered(pilot)
    async with opened(chat(server, server.store.list()[0].id)) as pilot:
        await wait_until(pilot, lambda: "Hello there" in seen(pilot))
        assert "remember me" in seen(pilot)


async def test_a_long_conversation_opens_at_its_end_and_pages_back(server: ChatServer) -> None:
    kept, last = server.store.create(title="Long"), None
    for number in range(20):
        last = server.store.append(kept.id, last, "user", f"question {number}").id
        last = server.store.append(kept.id, last, "assistant", f"answer {number}", finish_reason="stop").id
    async with opened(chat(server, kept.id)) as pilot:
        await wait_until(pilot, lambda: "answer 19" in seen(pilot))
        assert len(pilot.app.query(Question)) == 8
        await pilot.press(*["pageup"] * 8)
        await wait_until(pilot, lambda: len(pilot.app.query(Question)) == 20)
        await pilot.press(*["pageup"] * 8)
        await wait_until(pilot, lambda: "question 0" in seen(pilot) and not pilot.app.query(Earlier))


async def test_a_title_that_comes_under_the_help_is_kept(server: ChatServer) -> None:
    server.script = Script(hold=0)
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "Hello" in seen(pilot))
        await pilot.press("f1")
        server.script.released.set()
        await answered(pilot)
        await pilot.press("f1")
        await wait_until(pilot, lambda: "localai · go" in seen(pilot))


async def test_a_refused_message_stays_typed_and_is_sent_again(server: ChatServer) -> None:
    server.script = Script(refuse=Unavailable("the daemon is stopping", "wait a moment"))
    async with opened(chat(server)) as pilot:
        await say(pilot, "my long text")
        await wait_until(pilot, lambda: "the daemon is stopping" in seen(pilot))
        assert seen(pilot).count("wait a moment") == 1
        assert pilot.app.query_one(Prompt).text == "my long text"
        server.script = Script()
        await pilot.press("ctrl+r")
        await answered(pilot)
        assert not pilot.app.query(Notice)
        assert pilot.app.query_one(Prompt).text == ""
    assert [m.content for m in server.store.path(server.store.list()[0].head or "")] == ["my long text", "Hello there"]


async def test_an_engine_that_dies_is_named_under_its_answer(server: ChatServer) -> None:
    server.script = Script(pieces=["half"], fail=EngineFailed("the engine died", "the next request starts a new one"))
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "the engine died" in seen(pilot))
        assert answers(pilot) == ["half"]
        server.script = Script(pieces=["whole"])
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["whole"])
        assert "the engine died" not in seen(pilot)


async def test_a_daemon_that_comes_late(path: Path) -> None:
    port = free_port()
    with serving(path, port) as first:
        pass
    async with opened(ChatApp(Client(base_url=first.url))) as pilot:
        await wait_until(pilot, lambda: "localai start" in seen(pilot))
        await say(pilot, "kept")
        await wait_until(pilot, lambda: idle(pilot) and pilot.app.query(Notice))
        assert pilot.app.query_one(Prompt).text == "kept"
        with serving(path, port):
            await pilot.press("ctrl+r")
            await answered(pilot)
            assert "Hello there" in seen(pilot)


async def test_stopping_before_the_answer_gives_the_text_back(server: ChatServer) -> None:
    server.script = Script(hold=-2)
    async with opened(chat(server)) as pilot:
        await say(pilot, "too early")
        await wait_until(pilot, lambda: server.requests)
        assert "too early" in seen(pilot)
        await pilot.press("l", "a", "t", "e", "r", "escape")
        await wait_until(pilot, lambda: idle(pilot))
        assert pilot.app.query_one(Prompt).text == "too early\nlater"
        assert not pilot.app.query(Question)


async def test_waiting_says_for_what(server: ChatServer) -> None:
    server.script = Script(comments=["loading model 0.4"], hold=-1)
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await wait_until(pilot, lambda: "loading model 40%" in seen(pilot))
        server.script.released.set()
        await answered(pilot)
        assert "loading" not in seen(pilot)


async def test_thinking_is_folded_until_asked_for(server: ChatServer) -> None:
    server.script = Script(reasoning=["secret ", "thoughts"], pieces=["Answer"])
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        assert "Thinking" in seen(pilot)
        assert "secret thoughts" not in seen(pilot)
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: "secret thoughts" in seen(pilot))
        assert not pilot.app.query_one(Collapsible).collapsed


async def test_hostile_output_reaches_the_screen_as_plain_text(server: ChatServer) -> None:
    server.script = Script(pieces=["\x1b]0;owned\x07 \x9b31m", "[red]mark[/red] <b>html</b>\n\n<div>block</div>"])
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        screen = seen(pilot)
    assert "[red]mark[/red] <b>html</b>" in screen
    assert "<div>block</div>" in screen
    assert not {"\x1b", "\x07", "\x9b"} & set(screen)


async def test_a_fence_that_closes_late_is_drawn_whole(server: ChatServer) -> None:
    source = "Text\n\n```python\nprint(1)\n```\n\nafter\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    server.script = Script(pieces=list(source))
    async with opened(chat(server)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        streamed = [type(block).__name__ for block in pilot.app.query_one(Markdown).children]
        assert pilot.app.query_one(Markdown).source == source
    assert streamed == ["MarkdownParagraph", "MarkdownFence", "MarkdownParagraph", "MarkdownTable"]


async def test_new_lines_are_typed_with_their_own_key(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        assert pilot.app.query_one(Prompt).text == "a\nb\nc"
        await pilot.press("enter")
        await answered(pilot)
    assert server.requests[0]["content"] == "a\nb\nc"


async def test_keys_that_come_in_one_burst_keep_their_order(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        for key in ("o", "n", "e", "enter", "t", "w", "o"):
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await answered(pilot)
        assert pilot.app.query_one(Prompt).text == "two"
    assert server.requests[0]["content"] == "one"


async def test_help_lists_the_keys_that_work(server: ChatServer) -> None:
    async with opened(chat(server)) as pilot:
        await pilot.press("f1")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Help))
        screen = seen(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Help))
    for line in ("Ctrl+R", "Ctrl+N", "Ctrl+O", "Ctrl+Q", "Esc", "Shift+Enter, Ctrl+J"):
        assert line in screen


async def test_a_second_question_waits_for_the_first(server: ChatServer) -> None:
    server.script = Script(hold=0)
    async with opened(chat(server)) as pilot:
        await say(pilot, "one")
        await wait_until(pilot, lambda: "Hello" in seen(pilot))
        await say(pilot, "two")
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: pilot.app.query_one(Prompt).text == "two")
        server.script.released.set()
        await answered(pilot)
    assert len(server.requests) == 1


async def test_a_small_terminal_shows_all_parts(server: ChatServer) -> None:
    async with opened(chat(server), size=(60, 18)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        screen = seen(pilot)
        heights = [pilot.app.query_one(part).size.height for part in (Transcript, StatusLine, Prompt)]
    assert "Hello there" in screen
    assert "45.5 tok/s" in screen
    assert "Quit" in screen
    assert heights[0] >= 8
    assert heights[1] == 1


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("\x1b[2Jx", "[2Jx"), ("a\r\nb\tc", "a\nb\tc"), ("\x9d\x7f\x00é…", "é…")],
    ids=["escape", "line ends", "C1"],
)
def test_control_characters_are_removed(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_the_screen_looks_as_it_did(
    server: ChatServer, size: tuple[int, int], snap_compare: Callable[..., bool]
) -> None:
    server.script = Script(
        reasoning=["Two words."],
        pieces=["# Heading\n\nSome **bold** text and `code`.\n\n", "```python\nprint('hi')\n```\n\n- one\n- two\n"],
    )

    async def talk(pilot: Driver) -> None:
        await say(pilot, "Show me\nsome Markdown")
        await answered(pilot)
        await wait_until(pilot, lambda: "localai · Show me" in seen(pilot))
        pilot.app.query_one(Prompt).cursor_blink = False
        await pilot.pause()

    assert snap_compare(chat(server), terminal_size=size, run_before=talk)
