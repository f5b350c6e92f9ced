"""What the prompt can do: files, pastes, commands, completion, history; and the panels over a daemon's own data."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events
from textual.command import CommandList

from localai.errors import BadRequest
from localai.unsent import remove
from tests.daemon_fixture import Daemon, running
from tests.terminal import terminal
from tests.tui_driver import (
    Driver,
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
from tui.app import IDS, ChatApp
from tui.commands import COMMANDS
from tui.completion import ranked, wanted_at
from tui.dashboard import Dashboard, Engine, Reading, residency_map, residency_text, watts
from tui.drafts import Drafts
from tui.memory_panel import MemoryPanel
from tui.options import option_of
from tui.plain import run_plain
from tui.settings import Settings, settings_of
from tui.writing import WritingScreen


@pytest.fixture(scope="module")
def host() -> Iterator[Daemon]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def zebra(host: Daemon) -> str:
    return planted(host, ("user", "zebra stripes"), ("assistant", "black and white"), title="Animals")


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
        await shows(pilot, "▸ notes/plan.txt (1 line)", "localai · see")
        await pilot.press("alt+up", "alt+up", "ctrl+t")
        await shows(pilot, "▾ notes/plan.txt (1 line)")
        await pilot.press("alt+e")
        assert app_of(pilot).chat.prompt.text == "see "
        assert [a.text for a in app_of(pilot).chat.attachments] == ["the plan ```x```"]


async def test_a_paste_of_a_megabyte_becomes_an_attachment(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.pause()
        app_of(pilot).chat.prompt.post_message(events.Paste("x y\n" * 250_000))
        await shows(pilot, "pasted 1")
        assert app_of(pilot).chat.prompt.text == ""
        await pilot.press("alt+backspace")
        await wait_until(pilot, lambda: not app_of(pilot).chat.attachments)
        app_of(pilot).chat.prompt.post_message(events.Paste("x y\n" * 300))
        await shows(pilot, "pasted 1")
        await pilot.press("alt+x")
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
        await shows(pilot, "/export [KIND]")
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
        await say(pilot, "/set")
        await shows(pilot, "Set in this chat: max_tokens 5")
        await say(pilot, "/set temperature hot")
        await shows(pilot, "'hot' is no number", "/set temperature hot")
        app_of(pilot).chat.prompt.clear()
        await say(pilot, "/system")
        await shows(pilot, "The system prompt: Be brief.")
        await say(pilot, "/memories")
        await shows(pilot, "What you say about yourself: ask")
        await say(pilot, "/id")
        await shows(pilot, f"localai chat -c {app_of(pilot).chat.conversation}")
        await say(pilot, "again")
        await wait_until(pilot, lambda: idle(pilot) and not turns(pilot, "info"))
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
        await say(pilot, "/export pdf")
        await shows(pilot, "'pdf' is no kind of export. choose markdown, json or html.")
        app_of(pilot).chat.prompt.clear()
        (tmp_path / "broken.json").write_text("{")
        await say(pilot, "/import broken.json")
        await shows(pilot, "broken.json is no JSON")
        await wait_until(pilot, lambda: idle(pilot) and app_of(pilot).chat.prompt.text == "/import broken.json")
        app_of(pilot).chat.prompt.clear()
        await say(pilot, "/import kept-talk.json")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation != kept and answers(pilot) == ["answer"])
    assert json.loads((tmp_path / "kept-talk.json").read_text())["title"] == "Kept talk"


async def test_each_chat_has_its_own_model_and_system_prompt(host: Daemon, fast: str, tmp_path: Path) -> None:
    other = planted(host, ("user", "q"), ("assistant", "other answer"), model="starter")
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "/system Be brief.")
        await wait_until(pilot, lambda: app_of(pilot).chat.system)
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation is None)
        await say(pilot, "/system")
        await shows(pilot, "There is no system prompt.")
        await app_of(pilot).chat._chosen(other)
        await wait_until(pilot, lambda: answers(pilot) == ["other answer"])
        assert app_of(pilot).chat.figures.model == "starter"
        assert app_of(pilot).chat.model is None


async def test_why_an_answer_was_ended_is_said_and_kept(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast), size=(110, 30)) as pilot:
        await say(pilot, "to be, or not to be; " * 60)
        await answered(pilot)
        await shows(pilot, "ended after 512 tokens: it repeated the same 21 tokens")
        kept = app_of(pilot).chat.conversation
    async with opened(chat(host, tmp_path, kept), size=(110, 30)) as pilot:
        await shows(pilot, "ended after 512 tokens: it repeated the same 21 tokens")


async def test_a_file_made_meanwhile_is_found(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.press(*"@late")
        (tmp_path / "later.txt").write_text("text")
        await pilot.press("ctrl+u", *"@late")
        await shows(pilot, "later.txt")


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
        assert "pulling" not in seen(pilot)


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
        await shows(pilot, "Pinned", "* person:owner")
        await pilot.press("p")
        await shows(pilot, "Not pinned any more.", "  person:owner")
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
        seen_before = [*app_of(pilot).chat.readings]
        assert seen_before
        await pilot.press("f5")
        await wait_until(pilot, lambda: len(app_of(pilot).chat.readings) > len(seen_before))
        assert [*app_of(pilot).chat.readings][: len(seen_before)] == seen_before


async def test_the_palette_runs_what_the_keys_do(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"Engines")
        await shows(pilot, "Engines and power")
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Dashboard))


async def choose_command(pilot: Driver, title: str) -> None:
    """The order of what fits is the palette's own."""
    rows = pilot.app.screen.query_one(CommandList)
    titles = [str(rows.get_option_at_index(at).prompt).split("\n")[0] for at in range(rows.option_count)]
    rows.highlighted = titles.index(title)
    await pilot.press("enter")


async def test_the_palette_has_the_slash_commands(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"/set")
        await shows(pilot, "show or set temperature")
        await choose_command(pilot, "/set")
        await shows(pilot, "All is as usual.")
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"/rename")
        await shows(pilot, "/rename TITLE")
        await choose_command(pilot, "/rename TITLE")
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text == "/rename ")


async def test_what_is_typed_survives_its_terminal(host: Daemon, fast: str, tmp_path: Path) -> None:
    kept = planted(host, ("user", "one"), ("assistant", "two"))
    drafts = tmp_path / "drafts"
    for conversation, text in ((kept, "half a quest"), (None, "a new idea")):
        app = ChatApp(host.client, conversation, folder=tmp_path, drafts=drafts)
        async with opened(app) as pilot:
            await wait_until(pilot, lambda app=app: app.chat.loaded)  # type: ignore[misc]
            await pilot.press(*text)
            await wait_until(pilot, lambda text=text: text in [p.read_text() for p in drafts.glob("*.txt")])  # type: ignore[misc]
            # As a killed program would, it goes without a word.
            app.chat.drafts = Drafts(None)
    async with opened(ChatApp(host.client, kept, folder=tmp_path, drafts=drafts)) as pilot:
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text == "half a quest")
        app_of(pilot).chat.prompt.clear()
        await wait_until(pilot, lambda: not (drafts / f"{kept}.txt").exists())
        assert (drafts / "new.txt").read_text() == "a new idea"
    async with opened(ChatApp(host.client, None, fast, folder=tmp_path, drafts=drafts)) as pilot:
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text == "a new idea")
        await pilot.press("enter")
        await answered(pilot)
        assert not list(drafts.iterdir())


async def test_the_last_word_before_leaving_is_kept(host: Daemon, tmp_path: Path) -> None:
    async with opened(ChatApp(host.client, None, folder=tmp_path, drafts=tmp_path / "drafts")) as pilot:
        await wait_until(pilot, lambda: app_of(pilot).chat.loaded)
        app_of(pilot).chat._keeping = app_of(pilot).set_timer(3600, lambda: None)
        await pilot.press(*"a last word", "ctrl+q")
    assert (tmp_path / "drafts" / "new.txt").read_text() == "a last word"


async def test_what_was_attached_is_attached_again(host: Daemon, fast: str, tmp_path: Path) -> None:
    notes, gone, drafts = tmp_path / "notes.txt", tmp_path / "gone.txt", tmp_path / "drafts"
    for path in (notes, gone):
        path.write_text(f"text of {path.name}")
    for kept in (("notes.txt", "gone.txt"), ()):
        async with opened(ChatApp(host.client, None, fast, folder=tmp_path, drafts=drafts)) as pilot:
            screen = app_of(pilot).chat
            await wait_until(pilot, lambda screen=screen: screen.loaded)  # type: ignore[misc]
            for name in kept:
                screen.action_attach(name)
                await shows(pilot, name)
            if not kept:
                await shows(pilot, "gone.txt cannot be read")
                assert [each.text for each in screen.attachments] == ["text of notes.txt"]
                await say(pilot, "Go.")
                await answered(pilot)
        gone.unlink(missing_ok=True)
        assert [path.name for path in drafts.glob("*")] == (["new.files"] if kept else [])
    assert b"text of" not in b"".join(path.read_bytes() for path in drafts.glob("*"))


@pytest.mark.parametrize(
    ("text", "first"),
    [("foo", "src/food.py"), ("src/f", "src/food.py"), ("form", "docs/form/"), ("inf", "docs/info.md")],
)
def test_what_begins_with_the_typed_comes_first(text: str, first: str) -> None:
    assert ranked(text, ["docs/info.md", "docs/form/", "a-form.txt", "src/food.py", "unfolded.txt"])[0] == first


def test_drafts_go_nowhere_else(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path / "drafts")
    drafts.keep("../escaped", "text")
    drafts.keep("plain", "text")
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["plain.txt"]
    assert (drafts.of("../escaped"), drafts.of("plain"), drafts.of("missing")) == ("", "text", "")
    assert (tmp_path / "drafts" / "plain.txt").stat().st_mode & 0o77 == 0
    drafts.keep("plain", "text", [tmp_path / "notes.txt"])
    assert drafts.files_of("plain") == (tmp_path / "notes.txt",)
    remove(tmp_path / "drafts", "plain")
    assert list((tmp_path / "drafts").iterdir()) == []


async def test_mistakes_in_the_settings_are_said_at_the_start(host: Daemon, tmp_path: Path) -> None:
    for conversation in (None, planted(host, ("user", "one"), ("assistant", "two"))):
        settings = Settings(mistakes="chat.toml: there is no theme 'mauve'.")
        app = ChatApp(host.client, conversation, folder=tmp_path, settings=settings)
        async with opened(app, size=(100, 30)) as pilot:
            await shows(pilot, "there is no theme 'mauve'")


async def test_again_is_offered_where_there_is_something(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast), size=(100, 30)) as pilot:
        await shows(pilot, "f1 Help")
        assert "Again" not in seen(pilot)
        await say(pilot, "one")
        await answered(pilot)
        await shows(pilot, "^r Again")


async def test_words_are_edited_as_in_a_shell(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path)) as pilot:
        await pilot.press(*"one two three", "alt+b", "alt+b", "alt+d")
        assert app_of(pilot).chat.prompt.text == "one  three"
        await pilot.press("alt+f", "!")
        assert app_of(pilot).chat.prompt.text == "one  three!"


def layered(*shares: float, vram: int = 0) -> Engine:
    return Engine("m", "b", "loaded", 0, 1, 0, None, (), 0, shares, vram)


@pytest.mark.parametrize(
    ("engine", "cells", "text"),
    [
        (layered(1.0, 0.5, 0.0, 0.002), "█▒··", "4 layers: 1 in RAM █, 1 in part ░▒▓, 2 on disk ·"),
        (layered(1.0, 1.0, 1.0, vram=2), "█GG", "3 layers: 1 in RAM █, 2 on the GPU G"),
        (layered(*[1.0] * 48, *[0.0] * 48), "█" * 24 + "·" * 24, "96 layers: 48 in RAM █, 48 on disk ·"),
    ],
    ids=["paged", "on a GPU", "more layers than cells"],
)
def test_the_map_of_weights_shows_each_layer(engine: Engine, cells: str, text: str) -> None:
    assert residency_map(engine, 1.0) == cells
    assert residency_text(engine.layers, engine.vram) == text


def test_power_is_drawn_over_time_also_while_nobody_looked() -> None:
    def reading(at: float, joules: float | None) -> Reading:
        return Reading(at, 0.0, (), (), 0, joules, "modelled", "")

    found = watts((reading(0, 0.0), reading(2, 8.0), reading(12, 28.0), reading(14, 1.0)))
    assert found == [4.0, *[2.0] * 5, 0.0]


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


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("/help\n", "/export [KIND]"),
        ("/set temperature 0.2\n/set\n", "Set in this chat: temperature 0.2"),
        ("/system Be brief.\n/system\n", "System prompt: Be brief."),
        ("/system\n", "There is no system prompt."),
        ("/list zebra\n/open 1\n", "You: zebra stripes"),
        ("/open 9\n", "/list shows what there is"),
        ("/open missing\n", "no conversation 'missing'"),
        ("/model\n", "smollm2-135m-instruct"),
        ("/model starter\n", "The next answers come from starter."),
        ("/model smolm2-135m-instruct\n/model\n", "did you mean 'smollm2-135m-instruct'?"),
        ("/plan starter\n", "J/token"),
        ("/remember Plain cats purr.\nDo plain cats purr?\n/memory\n", "Plain cats purr.\n1 recalled"),
        ("/energy\n", "Power of answers"),
        ("/export json\n", "there is no conversation yet"),
        ("/rename\n", "TITLE is missing"),
        ("/list zebra\n/open 1\n/export pdf\n", "choose markdown, json or html"),
        ("to be, or not to be; " * 60 + "\n", "(ended after 512 tokens: it repeated the same 21 tokens"),
        ("/nonsense\n", "There is no command /nonsense"),
        ("/list zebra\n/open 1\nmore\n/compact\n", "became a summary of"),
        ("hello\n", "`localai chat --plain -c "),
    ],
    ids=lambda value: value.split("\n")[0][:24] if "/" in value[:1] or value == "hello\n" else "",
)
async def test_plain_mode_has_commands(host: Daemon, fast: str, zebra: str, lines: str, expected: str) -> None:
    to = io.StringIO()
    await asyncio.to_thread(run_plain, host.client, io.StringIO(lines), to, None, fast)
    assert expected in to.getvalue()


def test_ctrl_c_stops_a_plain_answer_with_its_figures(host: Daemon) -> None:
    command = [sys.executable, "-P", "-m", "localai", "chat", "--plain", "-m", host.echo("slow.txt", 40)]
    with terminal(command, host.env) as screen:
        screen.wait(b"You: ")
        screen.type(b"again " * 30 + b"\r")
        # The first is what was typed.
        screen.wait(b"again again again \r\n")
        screen.wait(b"\nagain again")
        screen.type(b"\x03")
        screen.wait(b"(stopped)")
        screen.wait(b"tok/s")
        screen.wait(b"You: ")


def test_conversations_are_listed_with_their_ids(host: Daemon, zebra: str) -> None:
    assert zebra in host.cli("chat", "--list").stdout
    listed = json.loads(host.cli("chat", "--list", "--json").stdout)["conversations"]
    assert zebra in [each["id"] for each in listed]
    assert host.cli("chat", "--json").returncode == 2


async def test_plain_mode_talks_in_lines(host: Daemon, fast: str) -> None:
    to = io.StringIO()
    source = io.StringIO("hello \\\nthere\n/again\n/new\n/quit\n")
    await asyncio.to_thread(run_plain, host.client, source, to, None, fast)
    text = to.getvalue()
    assert text.count("hello \nthere") == 2
    assert "\x1b" not in text
    assert "tok/s" in text


@pytest.mark.parametrize(
    ("text", "told", "kept"),
    [
        ('theme = "contrast"\n[keys]\nagain = "f9"\n', "", ("contrast", {"again": "f9"})),
        ("theme = 3", "no theme 3", ("", {})),
        ('theme = "mauve"\n[keys]\nagain = "f9"', "no theme 'mauve'", ("", {"again": "f9"})),
        ('other = 1\ntheme = "plain"', "no setting 'other'", ("plain", {})),
        ("[keys]\nagain = 3", "the key of 'again' is no text", ("", {})),
        ('[keys]\nagian = "f9"', "no action 'agian'", ("", {})),
        ('[keys]\nagain = "f9"\nstop = "f9"', "given to two actions", ("", {"again": "f9"})),
        ('memories = "always"', "memories is 'always'", ("", {})),
        ("[", "cannot be read", ("", {})),
    ],
    ids=["right", "type", "theme", "setting", "key", "action", "twice", "memories", "syntax"],
)
def test_settings_say_what_they_do_not_understand(
    text: str, told: str, kept: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "chat.toml"
    path.write_text(text)
    found = settings_of(path, IDS)
    assert told in found.mistakes
    assert bool(found.mistakes) == bool(told)
    assert (found.theme, found.keys) == kept
    assert settings_of(tmp_path / "missing.toml", IDS) == Settings()
