"""Every action by its key. The last test compares the bindings with the keys that the chat's tests press."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events
from textual.binding import Binding

from tests.daemon_fixture import Daemon, running
from tests.terminal import terminal
from tests.tui_driver import (
    answered,
    answers,
    app_of,
    chat,
    idle,
    opened,
    planted,
    say,
    seen,
    shows,
    stored,
    turns,
    wait_until,
)
from tui.app import ChatApp
from tui.bench_screen import BenchScreen
from tui.branches import Branches
from tui.chat_screen import ChatScreen
from tui.chooser import Chooser
from tui.dashboard import Dashboard
from tui.help import Help
from tui.listing import ListScreen
from tui.memory_panel import MemoryPanel
from tui.models import Models
from tui.prompt import Prompt
from tui.remembering import proposed
from tui.settings import Settings
from tui.tools import Tools

PANELS = (ListScreen, Chooser, Branches, Models, Tools, MemoryPanel, Dashboard, BenchScreen, Help)
SCREENS = (ChatApp, ChatScreen, Prompt, *PANELS)
_FROM_A_FILE = {"text": "The lighthouse stands on the northern cape.", "source": {"kind": "file", "name": "coast.md"}}
TALK = (("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))


@pytest.fixture(scope="module")
def host() -> Iterator[Daemon]:
    with running() as started:
        yield started


@pytest.fixture
def fast(host: Daemon) -> str:
    return host.echo("fast.txt", 0)


def kept(host: Daemon, *texts: str) -> list[str]:
    found = {memory["text"] for memory in host.client.get("/localai/memory?limit=500")["memories"]}
    return [text for text in texts if text in found]


async def test_themes_change_and_the_chat_is_left(host: Daemon, tmp_path: Path) -> None:
    app = chat(host, tmp_path)
    async with opened(app) as pilot:
        await pilot.press(*["f8"] * 3)
        assert app.theme == "plain"
        await pilot.press("a", "ctrl+j", "b")
        assert app.chat.prompt.text == "a\nb"
        await pilot.press("f8", "ctrl+q")
        await wait_until(pilot, lambda: not app.is_running)


async def test_messages_are_chosen_and_scrolled(host: Daemon, tmp_path: Path) -> None:
    said = [("assistant" if n % 2 else "user", f"message {n}\n" + "line\n" * 5) for n in range(20)]
    async with opened(chat(host, tmp_path, planted(host, *said))) as pilot:
        await shows(pilot, "message 19")
        transcript = app_of(pilot).chat.transcript
        await pilot.press("alt+up", "alt+up", "alt+down")
        assert transcript.selected is turns(pilot)[-1]
        await pilot.press("alt+down")
        assert not transcript.selected
        await pilot.press("pageup", "pageup")
        assert "message 19" not in seen(pilot)
        await pilot.press("pagedown", "pagedown", "pagedown")
        await shows(pilot, "message 19")


async def test_letters_with_alt_are_not_typed(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        for letter in "abcdefknosxyz":
            pilot.app.post_message(events.Key(f"alt+{letter}", letter))
        pilot.app.post_message(events.Key("x", "x"))
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text)
        assert app_of(pilot).chat.prompt.text == "x"


def test_the_editor_opens_by_its_key(host: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "editor"
    script.write_text('#!/bin/sh\nprintf "%s-and-more" "$(cat "$1")" > "$1"\n')
    script.chmod(0o700)
    command = [sys.executable, "-P", "-m", "localai", "chat"]
    with terminal(command, {**host.env, "VISUAL": str(script)}) as screen:
        screen.wait(b"sk anything")
        screen.type(b"typed")
        screen.wait(b"d")
        screen.type(b"\x07")
        screen.wait(b"typed-and-more")


async def test_where_no_editor_can_open_the_text_stays(
    host: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", str(tmp_path / "missing"))
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.press(*"typed", "ctrl+g")
        await pilot.pause()
        assert app_of(pilot).chat.prompt.text == "typed"


async def test_what_was_recalled_is_judged(host: Daemon, fast: str, tmp_path: Path) -> None:
    made = host.client.post("/localai/memory", _FROM_A_FILE)["id"]
    async with opened(chat(host, tmp_path, model=fast), size=(120, 30)) as pilot:
        await say(pilot, "Where does the lighthouse stand?")
        await answered(pilot)
        await wait_until(pilot, lambda: turns(pilot)[-1].figures.memories)
        await pilot.press("f6")
        await shows(pilot, "northern cape")
        before = host.client.get(f"/localai/memory/{made}")["trust"]
        await pilot.press("c")
        await wait_until(pilot, lambda: host.client.get(f"/localai/memory/{made}")["trust"] > before)
        await pilot.press("r")
        await wait_until(pilot, lambda: host.client.get(f"/localai/memory/{made}")["trust"] < before)


async def test_what_a_person_says_is_kept_only_when_told_so(host: Daemon, fast: str, tmp_path: Path) -> None:
    yes, no = "I live in Tromsø.", "My cat is called Ada."
    async with opened(chat(host, tmp_path, model=fast), size=(100, 30)) as pilot:
        await say(pilot, f"{yes} {no} What now?")
        await shows(pilot, f"Remember? Alt+Y yes, Alt+N no: {yes}")
        await pilot.press("alt+y")
        await shows(pilot, "Remembered.", no)
        await pilot.press("alt+n")
        await wait_until(pilot, lambda: "Remember?" not in seen(pilot))
        assert kept(host, yes, no) == [yes]


@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_memories_are_kept_at_once_or_not_at_all(host: Daemon, fast: str, mode: str, tmp_path: Path) -> None:
    text = f"My {mode} bicycle is green."
    app = ChatApp(host.client, None, fast, folder=tmp_path, settings=Settings(memories="off"))
    async with opened(app, size=(100, 30)) as pilot:
        await say(pilot, f"/memories {mode}")
        await shows(pilot, f"What you say about yourself: {mode}")
        await say(pilot, text)
        await answered(pilot)
        if mode == "auto":
            await shows(pilot, f"Remembered: {text}")
        assert "Remember?" not in seen(pilot)
    assert kept(host, text) == [text] * (mode == "auto")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("My name is Ada. What is it?", ["My name is Ada."]),
        ("Please remember that the key is under the pot", ["The key is under the pot"]),
        ("Is my name Ada?", []),
        ("I am tired at the moment. I like this code.", []),
        ("```\nI live in a fence.\n```", []),
        ("I prefer tea.\nI own a boat; it is old.\nI live here.\nI work there.", 3),
    ],
    ids=["name", "order", "question", "passing", "code", "at most three"],
)
def test_what_might_be_remembered(text: str, sentences: list[str] | int) -> None:
    found = proposed(text)
    assert len(found) == sentences if isinstance(sentences, int) else list(found) == sentences


async def test_a_long_talk_goes_on_from_a_summary(host: Daemon, fast: str, tmp_path: Path) -> None:
    long = planted(host, *TALK, title="Long")
    async with opened(chat(host, tmp_path, long, fast)) as pilot:
        await wait_until(pilot, lambda: len(answers(pilot)) == 2)
        await say(pilot, "/compact")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation != long and answers(pilot) == ["four"])
        await shows(pilot, "localai · Long, compacted", "2 messages of 2 words became a summary of")
        short = stored(host, app_of(pilot).chat.conversation)
    assert "What was said before, in short:" in short["system"]
    assert "Person: one" in short["system"]
    assert len(stored(host, long)["messages"]) == 4


async def test_a_summary_is_stopped_and_costs_nothing(host: Daemon, tmp_path: Path) -> None:
    long = planted(host, *TALK, title="Long")
    async with opened(chat(host, tmp_path, long, host.echo("slow.txt", 200))) as pilot:
        await wait_until(pilot, lambda: len(answers(pilot)) == 2)
        await say(pilot, "/compact")
        await shows(pilot, "compacting, part 1 of 1")
        await say(pilot, "meanwhile")
        await shows(pilot, "A summary is being written.")
        await pilot.press("escape")
        await wait_until(pilot, lambda: app_of(pilot).chat.compacting is None)
        assert app_of(pilot).chat.conversation == long
        assert app_of(pilot).chat.prompt.text == "meanwhile"
        await wait_until(pilot, lambda: idle(pilot) and "compacting" not in seen(pilot))


async def test_other_keys_work_and_are_listed(host: Daemon, fast: str, tmp_path: Path) -> None:
    settings = Settings(keys={"again": "f12", "yes": "f10"})
    app = ChatApp(host.client, planted(host, *TALK), fast, folder=tmp_path, settings=settings)
    async with opened(app, size=(100, 90)) as pilot:
        await wait_until(pilot, lambda: len(answers(pilot)) == 2)
        await pilot.press("f12")
        await shows(pilot, "branch 2 of 2")
        await wait_until(pilot, lambda: idle(pilot))
        await pilot.press("f1")
        await shows(pilot, "F12 ", "F10 ")
        assert "Ctrl+R" not in seen(pilot)


def test_no_key_is_untested() -> None:
    pressed: set[str] = set()
    folder = Path(__file__).parent
    for file in [*folder.glob("test_tui*.py"), folder / "tui_scenes.py"]:
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("pilot.press", "_over", "events.Key"):
                pressed |= {part.value for part in ast.walk(call) if isinstance(part, ast.Constant)}  # type: ignore[misc]
    bound = [
        (screen.__name__, each.key.split(","))
        for screen in SCREENS
        for each in screen.__dict__.get("BINDINGS", ())
        if isinstance(each, Binding)
    ]
    assert len(bound) > 40
    assert [(screen, keys) for screen, keys in bound if not pressed & set(keys)] == []
