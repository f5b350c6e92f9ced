"""What the prompt can do: files, pastes, commands, completion, history; and the panels over a daemon's own data."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events

from localai.errors import BadRequest, ConfigError
from tests.daemon_fixture import Daemon, running
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
from tui import attachments
from tui.commands import COMMANDS
from tui.completion import wanted_at
from tui.dashboard import Dashboard
from tui.memory_panel import MemoryPanel
from tui.options import option_of
from tui.plain import run_plain
from tui.settings import settings_of
from tui.writing import WritingScreen


@pytest.fixture(scope="module")
def host() -> Iterator[Daemon]:
    with running() as started:
        yield started


@pytest.fixture
def fast(host: Daemon) -> str:
    return host.echo("fast.txt", 0)


async def test_a_file_is_picked_counted_and_sent(host: Daemon, fast: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "plan.txt").write_text("the plan ```x```")
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await pilot.press(*"see @pl")
        await shows(pilot, "notes/plan.txt")
        await pilot.press("enter")
        await shows(pilot, "plan.txt (16 tokens)")
        assert app_of(pilot).chat.prompt.text == "see "
        await pilot.press("enter")
        await answered(pilot)
        assert "the plan ```x```" in answers(pilot)[0]
        assert answers(pilot)[0].endswith("see ")
        assert "````" in answers(pilot)[0]
        assert not app_of(pilot).chat.attachments


async def test_a_paste_of_a_megabyte_becomes_an_attachment(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.pause()
        app_of(pilot).chat.prompt.post_message(events.Paste("x y\n" * 250_000))
        await shows(pilot, "pasted 1")
        assert app_of(pilot).chat.prompt.text == ""
        await pilot.press("alt+backspace")
        await wait_until(pilot, lambda: not app_of(pilot).chat.attachments)
        app_of(pilot).chat.prompt.post_message(events.Paste("short\nand plain"))
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text == "short\nand plain")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.bin", b"\x00\x01\xff", "not a text file"),
        ("b.txt", b"text\x00", "not a text file"),
        ("c.png", b"\x89PNG", "no eyes"),
        ("gone", None, "cannot be read"),
    ],
    ids=["bytes", "null", "picture", "missing"],
)
async def test_what_is_no_text_is_refused_in_words(
    host: Daemon, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    async with opened(chat(host, tmp_path)) as pilot:
        await say(pilot, f"/attach {name}")
        await shows(pilot, words)
        assert not app_of(pilot).chat.attachments


def test_a_folder_gives_its_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.bin").write_bytes(b"\xff\x00")
    (tmp_path / ".hidden").write_text("secret")
    found = attachments.read(tmp_path)
    assert "alpha" in found.text
    assert "secret" not in found.text


async def test_commands_complete_and_unknown_ones_stay_typed(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.press(*"/ex")
        await shows(pilot, "/export KIND")
        await pilot.press("tab")
        assert app_of(pilot).chat.prompt.text == "/export "
        app_of(pilot).chat.prompt.text = ""
        await say(pilot, "/nonsense")
        await shows(pilot, "There is no command /nonsense")
        assert app_of(pilot).chat.prompt.text == "/nonsense"


def test_every_command_has_its_action() -> None:
    from tui.app import ChatApp
    from tui.chat_screen import ChatScreen

    missing = [c.name for c in COMMANDS if not hasattr(ChatScreen, f"action_{c.action}")]
    assert [name for name in missing if not hasattr(ChatApp, f"action_{name}")] == []
    assert issubclass(ChatScreen, WritingScreen)


async def test_earlier_messages_come_back(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "first"), ("assistant", "x"), ("user", "second"), ("assistant", "y"))
    async with opened(chat(host, tmp_path, kept)) as pilot:
        await wait_until(pilot, lambda: len(answers(pilot)) == 2)
        await pilot.press(*"draft", "up", "up")
        assert app_of(pilot).chat.prompt.text == "first"
        await pilot.press("down", "down")
        assert app_of(pilot).chat.prompt.text == "draft"


async def test_options_and_a_system_prompt_reach_the_daemon(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "/system Be brief.")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation)
        await say(pilot, "/set max_tokens 5")
        await wait_until(pilot, lambda: app_of(pilot).chat.options.get("max_tokens") == 5)
        await say(pilot, "abcdefghij")
        await answered(pilot)
        await shows(pilot, "cut at the token limit")
        assert answers(pilot) == ["Be br"]
    assert stored(host, app_of(pilot).chat.conversation)["system"] == "Be brief."


@pytest.mark.parametrize("text", ["temperature hot", "nothing 1", "seed", "policy greedy"])
def test_wrong_options_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        option_of(text)


async def test_export_and_import_through_files(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "question"), ("assistant", "answer"), title="Kept talk")
    async with opened(chat(host, tmp_path, kept)) as pilot:
        await wait_until(pilot, lambda: answers(pilot))
        await say(pilot, "/export json")
        await wait_until(pilot, lambda: (tmp_path / "kept-talk.json").exists())
        await say(pilot, "/export html")
        await wait_until(pilot, lambda: (tmp_path / "kept-talk.html").exists())
        (tmp_path / "broken.json").write_text("{")
        await say(pilot, "/import broken.json")
        await shows(pilot, "broken.json is no JSON")
        await wait_until(pilot, lambda: idle(pilot))
        await say(pilot, "/import kept-talk.json")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation != kept and answers(pilot) == ["answer"])
    assert json.loads((tmp_path / "kept-talk.json").read_text())["title"] == "Kept talk"


async def test_renaming_and_pinning_by_command(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "q"), ("assistant", "a"))
    async with opened(chat(host, tmp_path, kept)) as pilot:
        await wait_until(pilot, lambda: answers(pilot))
        await say(pilot, "/rename Better")
        await shows(pilot, "localai · Better")
        await say(pilot, "/pin")
        await wait_until(pilot, lambda: stored(host, kept)["pinned"])


async def test_a_pull_that_fails_says_why(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await say(pilot, "/pull no-such-model")
        await wait_until(pilot, lambda: turns(pilot, "notice"))
        assert "no-such-model" in turns(pilot, "notice")[0].content


async def test_the_editor_writes_the_message(host: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tui.editor import edited

    script = tmp_path / "editor"
    script.write_text('#!/bin/sh\nprintf "%s and more" "$(cat "$1")" > "$1"\n')
    script.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(script))
    assert edited("typed") == "typed and more"
    monkeypatch.setenv("VISUAL", str(tmp_path / "missing"))
    assert edited("typed") == "typed"


async def test_memories_are_shown_judged_corrected_and_forgotten(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast), size=(120, 30)) as pilot:
        await say(pilot, "/remember The spare key is under the third pot.")
        await shows(pilot, "Remembered.")
        await say(pilot, "Where is the spare key?")
        await answered(pilot)
        await wait_until(pilot, lambda: turns(pilot)[-1].figures.memories)
        await pilot.press("f6")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, MemoryPanel))
        await shows(pilot, "person:owner", "trust", "third pot")
        await pilot.press("p")
        await shows(pilot, "Pinned")
        await pilot.press("e", *["backspace"] * 4, *"shed.", "enter")
        await wait_until(pilot, lambda: "shed" in str(host.client.get("/localai/memory")))
        await pilot.press("f")
        await shows(pilot, "F again forgets")
        await pilot.press("f")
        await shows(pilot, "(forgotten)")


async def test_the_dashboard_follows_the_daemon(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "load")
        await answered(pilot)
        await pilot.press("f5")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Dashboard))
        await shows(pilot, "echo:fast.txt", "Queue", "Power of answers")
        await pilot.press("f5")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Dashboard))


async def test_the_palette_runs_what_the_keys_do(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"Engines")
        await shows(pilot, "Engines and power")
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Dashboard))


async def test_the_first_run_explains_and_leaves_the_typed_alone(fresh: Daemon, tmp_path: Path) -> None:
    async with opened(chat(fresh, tmp_path)) as pilot:
        await pilot.press(*"hello")
        await shows(pilot, "Welcome", "This machine", "GiB of memory", "smollm2-135m-instruct", "only when you say yes")
        assert app_of(pilot).chat.prompt.text == "hello"


async def test_a_storm_of_sizes_leaves_the_end_in_view(host: Daemon, tmp_path: Path) -> None:
    said = [("assistant" if n % 2 else "user", f"message {n} " + "word " * 40) for n in range(60)]
    async with opened(chat(host, tmp_path, planted(host, *said))) as pilot:
        await shows(pilot, "message 59")
        for width in (30, 120, 60, 200, 12, 80):
            await pilot.resize_terminal(width, 24)
        await shows(pilot, "message 59")
        await pilot.press(*["pageup"] * 3)
        assert "message 59" not in seen(pilot)


async def test_a_long_conversation_paints_what_is_seen(host: Daemon, tmp_path: Path) -> None:
    said = [("assistant" if n % 2 else "user", f"message {n}") for n in range(2000)]
    async with opened(chat(host, tmp_path, planted(host, *said))) as pilot:
        await shows(pilot, "message 1999")
        transcript = app_of(pilot).chat.transcript
        assert len(transcript._strips) < 100
        transcript._go(0)
        await shows(pilot, "message 0")
        assert sum(turn.document is not None for turn in transcript.turns) < 100


@pytest.mark.parametrize(
    ("line", "column", "first", "found"),
    [
        ("/mo", 3, True, ("/", "mo")),
        ("/mo", 3, False, None),
        ("/model x", 8, True, None),
        ("see @src/a", 10, True, ("@", "src/a")),
        ("mail a@b", 8, True, None),
        ("@", 1, False, ("@", "")),
    ],
)
def test_what_is_completed(line: str, column: int, first: bool, found: tuple[str, str] | None) -> None:
    wanted = wanted_at(line, column, first=first)
    assert (None if wanted is None else (wanted.kind, wanted.text)) == found


async def test_plain_mode_talks_in_lines(host: Daemon, fast: str) -> None:
    to = io.StringIO()
    source = io.StringIO("hello \\\nthere\n/again\n/new\n/quit\n")
    await asyncio.to_thread(run_plain, host.client, source, to, None, fast)
    text = to.getvalue()
    assert text.count("hello \nthere") == 2
    assert "\x1b" not in text
    assert "tok/s" in text


def test_settings_change_keys_and_theme(tmp_path: Path) -> None:
    path = tmp_path / "chat.toml"
    assert settings_of(path).theme == ""
    path.write_text('theme = "contrast"\n[keys]\nagain = "f9"\n')
    assert (settings_of(path).theme, settings_of(path).keys) == ("contrast", {"again": "f9"})
    for wrong in ("theme = 3", "other = 1", "[keys]\nagain = 3", "["):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            settings_of(path)
