"""Tools in the chat: chosen, asked about, shown as rows that open; by a script of frames, and by a daemon."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from localai import __version__
from localai.client import Client
from tests.daemon_fixture import Daemon
from tests.tool_places import declare, serving
from tests.tui_driver import answers, app_of, chat, idle, opened, say, seen, shows, turns, wait_until
from tui.app import ChatApp
from tui.tools import Tools

CALL = {"call": "c1", "tool": "weather", "server": "little", "arguments": '{"city": "Oslo"}', "request": "r1"}
USED = {"type": "tool_used", **CALL, "shown": "It rains in Oslo.", "ok": True, "joules": None}
TOOL = {"name": "weather", "server": "little", "description": "Tell the weather.", "parameters": {}, "consent": "ask"}


class Script(ThreadingHTTPServer):
    """Answers as the daemon does with an MCP server of one tool, whose call waits for the person's leave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Frames)
        self.bodies: dict[str, Any] = {}
        self.decided = threading.Event()
        self.consent = "ask"


class _Frames(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        tools = [{**TOOL, "consent": self.server.consent}]
        listed = {"servers": [{"name": "little", "kind": "command", "problem": None, "tools": tools}]}
        self._answer(
            listed
            if self.path == "/localai/tools"
            else {"version": __version__, "rows": [], "title": "Talk", "id": "talk"}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies[self.path] = body
        if self.path.endswith("/reply"):
            self._stream()
        elif self.path.endswith("/consent"):
            self.server.consent = body["consent"]
            self._answer(TOOL)
        else:
            self._answer({"id": "talk"})
            if "/calls/" in self.path:
                self.server.decided.set()

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._frame({"type": "message", "user": {"id": "u"}, "assistant": {"id": "a"}})
        self._frame({"type": "tool_asked", **CALL})
        self.server.decided.wait(60)
        self._frame(USED)
        self._frame({"choices": [{"delta": {"content": "Take an umbrella."}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _frame(self, frame: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(frame)}\n\n".encode())
        self.wfile.flush()

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.decided.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def app(script: Script, tmp_path: Path) -> ChatApp:
    return ChatApp(Client(base_url=f"http://127.0.0.1:{script.server_port}"), folder=tmp_path)


@pytest.mark.parametrize("decision", ["once", "always", "no"])
async def test_a_call_waits_for_leave_and_its_row_opens(script: Script, app: ChatApp, decision: str) -> None:
    async with opened(app, size=(100, 30)) as pilot:
        app.chat.options["tools"] = ["weather"]
        await say(pilot, "What is the weather?")
        await shows(pilot, "weather of little? Alt+Y yes, Alt+A always, Alt+N no", "Oslo")
        await pilot.press({"once": "alt+y", "always": "alt+a", "no": "alt+n"}[decision])
        await wait_until(pilot, lambda: idle(pilot) and answers(pilot) == ["Take an umbrella."])
        assert script.bodies["/localai/tools/calls/c1"] == {"decision": decision}
        assert script.bodies["/localai/conversations/talk/reply"]["tools"] == ["weather"]
        await shows(pilot, "▸ Tool call weather")
        assert "It rains" not in seen(pilot)
        await pilot.press("ctrl+t")
        await shows(pilot, "It rains in Oslo.", '{"city": "Oslo"}')
        assert turns(pilot)[0].calls[0].ok


async def test_tools_are_chosen_for_a_chat_and_allowed_for_all(script: Script, app: ChatApp) -> None:
    async with opened(app, size=(120, 30)) as pilot:
        await pilot.press("f9")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, Tools))
        await shows(pilot, "[ ] weather", "ask", "Tell the weather.")
        await pilot.press("enter")
        await shows(pilot, "[x] weather")
        await pilot.press("c")
        await shows(pilot, "[x] weather", "always")
        await pilot.press("escape")
        await wait_until(pilot, lambda: app_of(pilot).chat.options == {"tools": ["weather"]})
        assert script.bodies["/localai/tools/weather/consent"] == {"consent": "always"}


async def test_a_call_of_a_real_daemon_runs_by_leave(daemon: Daemon, tmp_path: Path) -> None:
    """The model repeats what it is told, which is a call; once allowed for always it is asked about no more."""
    call = '<tool_call>\n{"name": "little__weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    with serving() as url:
        declare(daemon.home, url=url)
        try:
            app = chat(daemon, tmp_path, model=daemon.echo("chat-tools.txt", 0))
            async with opened(app, size=(120, 30)) as pilot:
                app.chat.options["tools"] = ["little__weather"]
                await say(pilot, call)
                await shows(pilot, "little__weather of little? Alt+Y yes, Alt+A always, Alt+N no")
                await pilot.press("alt+a")
                await wait_until(pilot, lambda: idle(pilot) and bool(answers(pilot)), 120)
                assert all(made.ok for made in turns(pilot)[0].calls)
                assert "It rains in Oslo." in turns(pilot)[0].calls[0].result
        finally:
            # The daemon is shared with tests that are asked too.
            daemon.client.post("/localai/tools/little__weather/consent", {"consent": "ask"})
            (daemon.home / "tools.toml").unlink()
