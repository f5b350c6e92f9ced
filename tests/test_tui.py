"""The chat driven by its keys, against a daemon whose engine says the whole conversation again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events

from tests.daemon_fixture import Daemon, running, wait_for
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
from tui.branches import Branches
from tui.chooser import Chooser
from tui.help import Help
from tui.models import Models

SLOW_MS = 40


@pytest.fixture(scope="module")
def host() -> Iterator[Daemon]:
    with running(LOCALAI_DEFAULT_MODEL="echo:/dev/null", HF_HUB_OFFLINE="1") as started:
        yield started


@pytest.fixture
def fast(host: Daemon) -> str:
    return host.echo("fast.txt", 0)


@pytest.fixture
def slow(host: Daemon) -> str:
    return host.echo("slow.txt", SLOW_MS)


async def test_a_question_is_answered_and_kept(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast), size=(120, 40)) as pilot:
        await say(pilot, "Hi [bold]you[/bold] 日本語")
        await answered(pilot)
        await shows(pilot, "localai · Hi [bold]you[/bold] 日本語", "tok/s", "TTFT", "echo:fast.txt")
        conversation = app_of(pilot).chat.conversation
        await wait_until(pilot, lambda: stored(host, conversation)["messages"][-1]["finish_reason"])
    said = [(m["role"], m["content"]) for m in stored(host, conversation)["messages"]]
    assert said == [("user", "Hi [bold]you[/bold] 日本語"), ("assistant", "Hi [bold]you[/bold] 日本語")]


async def test_text_appears_while_it_is_written_and_esc_stops_it(host: Daemon, slow: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=slow)) as pilot:
        await say(pilot, "word " * 40)
        await wait_until(pilot, lambda: answers(pilot) and answers(pilot)[0].count("word") > 1)
        assert not idle(pilot)
        await pilot.press("escape")
        await answered(pilot)
        part = answers(pilot)[0]
        await shows(pilot, "stopped", "tok/s", "TTFT")
        conversation = app_of(pilot).chat.conversation
        await wait_until(pilot, lambda: stored(host, conversation)["messages"][-1]["finish_reason"] == "cancelled")
        kept = stored(host, conversation)["messages"][-1]
    assert 0 < len(part) < 200
    assert kept["content"] == part
    assert kept["usage"]["completion_tokens"] == len(part)
    assert kept["usage"]["energy"]["joules"] > 0


async def test_esc_twice_waits_for_no_figures(host: Daemon, slow: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=slow)) as pilot:
        await say(pilot, "word " * 40)
        await wait_until(pilot, lambda: answers(pilot) and answers(pilot)[0].count("word") > 1)
        await pilot.press("escape", "escape")
        await answered(pilot)
        await shows(pilot, "stopped")


async def test_a_chat_that_goes_away_loses_no_word(host: Daemon, slow: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=slow)) as pilot:
        await say(pilot, "again " * 30)
        await wait_until(pilot, lambda: answers(pilot) and "again again" in answers(pilot)[0])
        received, conversation = answers(pilot)[0], app_of(pilot).chat.conversation
    kept = await asyncio.to_thread(
        wait_for, lambda: [m for m in stored(host, conversation)["messages"][1:] if m["finish_reason"]], 60
    )
    assert kept[0]["content"].startswith(received)
    assert kept[0]["usage"]["completion_tokens"] == len(kept[0]["content"]) > 0
    async with opened(chat(host, tmp_path, conversation)) as pilot:
        await wait_until(pilot, lambda: answers(pilot) == [kept[0]["content"]])
        figures, usage = app_of(pilot).chat.figures, kept[0]["usage"]
        assert (figures.used, figures.exact) == (usage["total_tokens"], True)
        assert figures.n_ctx == kept[0]["figures"]["n_ctx"] > 0


async def test_again_makes_a_branch_and_the_keys_go_between(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "go")
        await answered(pilot)
        first = turns(pilot)[0].id
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: idle(pilot) and turns(pilot) and turns(pilot)[0].id != first)
        await shows(pilot, "branch 2 of 2")
        await pilot.press("alt+left")
        await wait_until(pilot, lambda: turns(pilot) and turns(pilot)[0].id == first)
        await shows(pilot, "branch 1 of 2")
        await pilot.press("alt+left")
        await shows(pilot, "There is no other branch there.")
        await pilot.press("alt+right")
        await shows(pilot, "branch 2 of 2")


async def test_a_question_is_edited_and_sent_again(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "frist")
        await answered(pilot)
        await pilot.press("alt+e")
        assert app_of(pilot).chat.prompt.text == "frist"
        app_of(pilot).chat.prompt.text = ""
        await say(pilot, "first")
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["first"])
        await shows(pilot, "branch 2 of 2")
        assert [turn.content for turn in turns(pilot, "user")] == ["first"]
        await pilot.press("alt+z")
        await wait_until(pilot, lambda: answers(pilot) == ["frist"])
        assert app_of(pilot).chat.prompt.text == "first"


async def test_editing_is_given_up_with_esc(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, planted(host, ("user", "one"), ("assistant", "two")))) as pilot:
        await shows(pilot, "two")
        await pilot.press("alt+e", "escape")
        assert (app_of(pilot).chat.prompt.text, app_of(pilot).chat.editing) == ("", None)


async def test_undo_takes_the_last_exchange_back(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "one")
        await answered(pilot)
        await say(pilot, "two")
        await answered(pilot, 2)
        await pilot.press("alt+z")
        await wait_until(pilot, lambda: len(answers(pilot)) == 1)
        assert app_of(pilot).chat.prompt.text == "two"


async def test_branches_are_a_tree_to_go_through_and_to_prune(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "root")
        await answered(pilot)
        await pilot.press("ctrl+r")
        await shows(pilot, "branch 2 of 2")
        await wait_until(pilot, lambda: idle(pilot))
        await pilot.press("f3")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Branches))
        await shows(pilot, "* > root", "  < root", "*   < root")
        await pilot.press("up", "ctrl+d")
        await shows(pilot, "Ctrl+D again deletes")
        await pilot.press("ctrl+d")
        await wait_until(pilot, lambda: seen(pilot).count("root") == 2)
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Branches) and "branch" not in seen(pilot))
    assert len(stored(host, app_of(pilot).chat.conversation)["messages"]) == 2


async def test_a_fork_goes_on_alone(host: Daemon, fast: str, tmp_path: Path) -> None:
    before = planted(host, ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), title="Forked")
    async with opened(chat(host, tmp_path, before)) as pilot:
        await shows(pilot, "d")
        await wait_until(pilot, lambda: len(answers(pilot)) == 2)
        await pilot.press("alt+up", "alt+up", "alt+up", "alt+o")
        await wait_until(pilot, lambda: app_of(pilot).chat.conversation != before and answers(pilot) == ["b"])
    assert len(stored(host, before)["messages"]) == 4


async def test_conversations_are_searched_renamed_pinned_and_deleted(host: Daemon, tmp_path: Path) -> None:
    planted(host, ("user", "zebra stripes"), ("assistant", "black and white"), title="Animals")
    planted(host, ("user", "weather"), title="Sky")
    async with opened(chat(host, tmp_path), size=(110, 30)) as pilot:
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Chooser))
        await shows(pilot, "Animals", "Sky")
        await pilot.press(*"zebra")
        await wait_until(pilot, lambda: "zebra stripes" in seen(pilot) and "Sky" not in seen(pilot))
        assert "zebra" in seen(pilot).replace("zebra stripes", "")
        await pilot.press("ctrl+r", *" 2")
        await shows(pilot, "Animals 2")
        await pilot.press("enter")
        await shows(pilot, "Animals 2")
        await pilot.press(*"zebra")
        await wait_until(pilot, lambda: "Sky" not in seen(pilot))
        await pilot.press("ctrl+p")
        await shows(pilot, "* 2")
        await pilot.press("enter")
        await shows(pilot, "black and white", "localai · Animals 2")
        await pilot.press("f2")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Chooser))
        await pilot.press(*"zebra")
        await wait_until(pilot, lambda: "zebra stripes" in seen(pilot) and "Sky" not in seen(pilot))
        await pilot.press("ctrl+d")
        await shows(pilot, "Ctrl+D again deletes")
        await pilot.press("ctrl+d")
        await wait_until(pilot, lambda: "zebra stripes" not in seen(pilot))


async def test_a_new_conversation_leaves_the_old_one_alone(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        await say(pilot, "one")
        await answered(pilot)
        first = app_of(pilot).chat.conversation
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not answers(pilot))
        await say(pilot, "two")
        await answered(pilot)
        assert app_of(pilot).chat.conversation != first
    assert len(stored(host, first)["messages"]) == 2


async def test_an_engine_that_dies_is_named_under_its_answer(host: Daemon, fast: str, tmp_path: Path) -> None:
    path = host.home / "deadly.txt"
    path.write_text("0 crash-always\n")
    async with opened(chat(host, tmp_path, model=f"echo:{path}")) as pilot:
        await say(pilot, "go")
        await shows(pilot, "Ctrl+R tries again")
        await wait_until(pilot, lambda: idle(pilot))
        assert "go" in seen(pilot)
        app_of(pilot).chat.action_use(fast)
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: idle(pilot) and "go" in answers(pilot)[-1:])


async def test_a_daemon_that_is_down_costs_nothing_typed(fresh: Daemon, tmp_path: Path) -> None:
    model = fresh.echo("late.txt", 0)
    fresh.end()
    async with opened(chat(fresh, tmp_path, model=model)) as pilot:
        await shows(pilot, "localai start")
        await say(pilot, "my long text")
        await wait_until(pilot, lambda: idle(pilot) and app_of(pilot).chat.prompt.text == "my long text")
        await asyncio.to_thread(fresh.start)
        await pilot.press("ctrl+r")
        await answered(pilot)
        assert not turns(pilot, "notice")
        assert app_of(pilot).chat.prompt.text == ""


async def test_a_second_question_waits_for_the_first(host: Daemon, slow: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=slow)) as pilot:
        await say(pilot, "one " * 40)
        await wait_until(pilot, lambda: answers(pilot) and answers(pilot)[0])
        await say(pilot, "two")
        await wait_until(pilot, lambda: app_of(pilot).chat.prompt.text == "two")
        await pilot.press("ctrl+r")
        await pilot.press("escape")
        await answered(pilot)
    assert len(stored(host, app_of(pilot).chat.conversation)["messages"]) == 2


async def test_hostile_output_reaches_the_screen_as_plain_text(host: Daemon, tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07 \x9b31m [red]mark[/red] <b>html</b> \u202egnorw\n\n<div>block</div>"
    async with opened(chat(host, tmp_path, planted(host, ("user", "x"), ("assistant", hostile)))) as pilot:
        await shows(pilot, "[red]mark[/red] <b>html</b>", "<div>block</div>")
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(seen(pilot))


async def test_thinking_is_folded_until_asked_for(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "x"), ("assistant", "Answer"))
    body = json.loads(host.client.get(f"/localai/conversations/{kept}/export?kind=json")["content"])
    body["messages"][1]["reasoning"] = "secret thoughts"
    made = host.client.post("/localai/conversations/import", {"content": body})["conversations"][0]["id"]
    async with opened(chat(host, tmp_path, made)) as pilot:
        await shows(pilot, "▸ Thinking (2 words)")
        assert "secret thoughts" not in seen(pilot)
        await pilot.press("ctrl+t")
        await shows(pilot, "secret thoughts")


async def test_code_is_chosen_copied_and_saved(host: Daemon, tmp_path: Path) -> None:
    text = "One:\n\n```python\nprint(1)\n```\n\n- two:\n\n  ```sh\n  ls\n  ```\n"
    async with opened(chat(host, tmp_path, planted(host, ("user", "x"), ("assistant", text)))) as pilot:
        await shows(pilot, "─ python", "print(1)")
        await pilot.press("alt+k", "alt+c")
        assert pilot.app.clipboard == "print(1)"
        await pilot.press("alt+k", "alt+c")
        assert pilot.app.clipboard == "ls"
        await pilot.press("alt+k", "alt+s")
        await wait_until(pilot, lambda: (tmp_path / "code.py").exists())
        await pilot.press("alt+s")
        await wait_until(pilot, lambda: (tmp_path / "code-2.py").exists())
    assert (tmp_path / "code.py").read_text() == "print(1)\n"


async def test_keys_that_come_in_one_burst_keep_their_order(host: Daemon, fast: str, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=fast)) as pilot:
        for key in ("o", "n", "e", "ctrl+j", "!", "enter", "t", "w", "o"):
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await answered(pilot)
        assert app_of(pilot).chat.prompt.text == "two"
        assert answers(pilot) == ["one\n!"]


async def test_help_lists_the_keys_that_work(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(100, 90)) as pilot:
        await pilot.press("f1")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Help))
        await shows(pilot, "Ctrl+R", "F2, Ctrl+O", "Alt+E", "Shift+Enter, Ctrl+J", "Ctrl+Q", "/export")
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Help))


async def test_a_model_is_pulled_only_when_asked_twice(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(110, 30)) as pilot:
        await pilot.press("f4")
        await shows(pilot, "to pull, 639 MB")
        screen = pilot.app.screen
        assert isinstance(screen, Models)
        screen.rows.highlighted = screen.rows.get_option_index("qwen3-0.6b")
        await pilot.press("p")
        await wait_until(pilot, lambda: screen._costs.get("qwen3-0.6b") not in (None, "planning…"))
        await pilot.press("enter")
        await shows(pilot, "Enter again pulls qwen3-0.6b")
        await pilot.press("up")
        await shows(pilot, "Models: Enter takes one")
        screen.rows.highlighted = screen.rows.get_option_index("qwen3-0.6b")
        await pilot.press("enter", "enter")
        await wait_until(pilot, lambda: pilot.app.screen is app_of(pilot).chat)
        await wait_until(pilot, lambda: turns(pilot, "notice"))


async def test_a_model_is_chosen_with_what_it_costs(host: Daemon, tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path), size=(110, 30)) as pilot:
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Models))
        await shows(pilot, "smollm2-135m-instruct", "tok/s", "MiB", "llama.cpp")
        await shows(pilot, "qwen3-0.6b", "to pull, 639 MB", "by size")
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Models))
        assert app_of(pilot).chat.model == "smollm2-135m-instruct"
        assert app_of(pilot).chat.options["backend"]
