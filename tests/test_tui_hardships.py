"""What goes wrong around the chat: small terminals, killed ones, other versions, no colour. Nothing typed is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from textual import events

from localai.client import Client
from localai.conversation_files import FORMAT, VERSION
from tests.daemon_fixture import Daemon, running, wait_for
from tests.terminal import terminal
from tests.tui_driver import answers, app_of, chat, idle, opened, planted, say, shows, stored, turns, wait_until
from tui.app import ChatApp
from tui.bench_screen import BenchScreen
from tui.chooser import Chooser
from tui.dashboard import Dashboard
from tui.models import Models


@pytest.fixture(scope="module")
def host() -> Iterator[Daemon]:
    with running() as started:
        yield started


def command(*more: str) -> list[str]:
    return [sys.executable, "-P", "-m", "localai", "chat", *more]


@pytest.fixture
def stranger() -> Iterator[Client]:
    """A daemon of another version, which answers JSON that means nothing here."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"version": "99.0", "chats": []})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({"name": "no id"})

        def _answer(self, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Client(base_url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_daemon_of_another_version_is_named(stranger: Client, tmp_path: Path) -> None:
    async with opened(ChatApp(stranger, folder=tmp_path), size=(120, 30)) as pilot:
        await shows(pilot, "The daemon is version 99.0")
        await say(pilot, "my question")
        await wait_until(pilot, lambda: idle(pilot) and turns(pilot, "notice"))
        assert "not understood" in turns(pilot, "notice")[0].content
        assert app_of(pilot).chat.prompt.text == "my question"
        for key, screen in {"f2": Chooser, "f4": Models, "f5": Dashboard, "f7": BenchScreen}.items():
            await pilot.press(key)
            await wait_until(pilot, partial(_shown, app_of(pilot), screen))
            await shows(pilot, "not understood")
            await pilot.press("escape")
            await wait_until(pilot, lambda: pilot.app.screen is app_of(pilot).chat)


def _shown(app: ChatApp, screen: type) -> bool:
    return isinstance(app.screen, screen)


async def test_a_file_of_a_newer_kind_is_refused_and_kept(host: Daemon, tmp_path: Path) -> None:
    newer = {"format": FORMAT, "version": VERSION + 1, "title": "From tomorrow", "messages": []}
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    async with opened(chat(host, tmp_path, model=host.echo("fast.txt", 0)), size=(100, 30)) as pilot:
        await say(pilot, "typed")
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["typed"])
        app_of(pilot).chat.action_import("newer.json")
        await wait_until(pilot, lambda: any("version" in notice.content for notice in turns(pilot, "notice")))
    assert json.loads((tmp_path / "newer.json").read_text()) == newer


@pytest.mark.parametrize("size", [(10, 3), (20, 5), (30, 8), (300, 4)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_terminal_too_small_still_takes_a_question(host: Daemon, size: tuple[int, int], tmp_path: Path) -> None:
    async with opened(chat(host, tmp_path, model=host.echo("fast.txt", 0)), size) as pilot:
        await say(pilot, "tiny")
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["tiny"])
        assert app_of(pilot).chat.prompt.region.height >= 1
        await pilot.press("f1", "escape", "f2", "escape")
        await pilot.resize_terminal(80, 24)
        await shows(pilot, "tiny", "f1 Help")


async def test_a_question_before_all_is_loaded_waits_for_it(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "one"), ("assistant", "two"))
    async with opened(chat(host, tmp_path, kept, host.echo("fast.txt", 0))) as pilot:
        await say(pilot, "three")
        await wait_until(pilot, lambda: idle(pilot) and len(answers(pilot)) == 2)
    assert [m["content"] for m in stored(host, kept)["messages"][:3]] == ["one", "two", "three"]


async def test_what_was_fetched_before_a_question_does_not_hide_its_answer(host: Daemon, tmp_path: Path) -> None:
    kept = planted(host, ("user", "one"), ("assistant", "two"))
    async with opened(chat(host, tmp_path, kept, host.echo("fast.txt", 0))) as pilot:
        screen = app_of(pilot).chat
        await wait_until(pilot, lambda: screen.loaded)
        late: list[Callable[[], object]] = []
        fetch = screen.fetch
        screen.fetch = lambda call, then, again=None: late.append(partial(then, call()))  # type: ignore[method-assign]
        screen.load(kept)
        screen.fetch = fetch  # type: ignore[method-assign]
        await say(pilot, "three")
        await wait_until(pilot, lambda: idle(pilot) and len(answers(pilot)) == 2)
        late[0]()
        assert len(answers(pilot)) == 2


async def test_a_window_that_gets_the_focus_late_takes_keys(host: Daemon, tmp_path: Path) -> None:
    app = chat(host, tmp_path)
    async with opened(app) as pilot:
        app.post_message(events.AppBlur())
        await wait_until(pilot, lambda: not app.app_focus)
        app.chat.set_focus(None)
        app.post_message(events.AppFocus())
        await wait_until(pilot, lambda: app.chat.focused is app.chat.prompt)
        await pilot.press(*"typed")
        assert app.chat.prompt.text == "typed"


def test_what_is_typed_before_the_chat_stands_is_typed(host: Daemon) -> None:
    with terminal(command(), host.env) as screen:
        screen.type(b"an early word")
        # The terminal's own echo comes before the chat takes it over.
        screen.wait(b"\x1b[?1049h")
        screen.seen = screen.seen.partition(b"\x1b[?1049h")[2]
        screen.wait(b"an early word")


def test_alt_and_a_letter_is_a_key_in_an_old_terminal(host: Daemon) -> None:
    """It comes as Escape and the letter there."""
    text = "My parrot is called Rio."
    with terminal(command("-m", host.echo("fast.txt", 0)), host.env) as screen:
        screen.wait(b"sk anything")
        screen.type(f"{text}\r".encode())
        screen.wait(b"Alt+Y")
        screen.type(b"\x1by")
        screen.wait(b"Remembered")
    assert text in [memory["text"] for memory in host.client.get("/localai/memory")["memories"]]


def test_without_colours_all_is_grey(host: Daemon) -> None:
    kept = planted(host, ("user", "x"), ("assistant", "# Head\n\n```python\nprint(1)\n```\n\nlast words"))
    with terminal(command("-c", kept), {**host.env, "NO_COLOR": "1"}) as screen:
        screen.wait(b"words")
        colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", screen.seen)
    assert colours
    assert all(red == green == blue for red, green, blue in colours)


def test_a_terminal_killed_in_mid_answer_loses_no_token(host: Daemon) -> None:
    words = " ".join(f"w{number}" for number in range(200))
    # What is said again has left the screen before it is.
    kept = planted(host, ("user", words), ("assistant", "pad\n\n" * 40 + "fin"))
    with terminal(command("-c", kept, "-m", host.echo("slow.txt", 10)), host.env) as screen:
        screen.wait(b"fin")
        screen.type(b"go\r")
        screen.wait(b"w20 ")
        os.kill(screen.pid, signal.SIGKILL)
        screen.drain(0.1)
        last = max(number for number in range(200) if f"w{number} ".encode() in screen.seen)
    answer = wait_for(lambda: next((m for m in stored(host, kept)["messages"][3:] if m["finish_reason"]), None), 60)
    # On the screen a word may be followed by the empty rest of its line.
    assert f"w{last}" in answer["content"].split()
    with terminal(command("-c", kept), host.env) as screen:
        screen.wait(f"w{last}".encode())
