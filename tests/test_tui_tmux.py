"""The chat as a person meets it: in tmux, with the starter model. Type, stream, stop, branch, quit, reopen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon_fixture import Daemon, wait_for

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
LONG_S = 200.0


class Tmux:
    """One server of its own with one window; nobody else's sessions are touched."""

    def __init__(self, folder: str) -> None:
        self._socket = os.path.join(folder, "tmux")

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-S", self._socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def keys(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def shows(self, *texts: str) -> str:
        def look() -> str | None:
            screen = self.screen()
            return screen if all(text in screen for text in texts) else None

        return str(wait_for(look, LONG_S))


@contextmanager
def tmux(daemon: Daemon, *arguments: str) -> Iterator[Tmux]:
    folder = tempfile.mkdtemp(prefix="tm", dir="/tmp")
    window = Tmux(folder)
    command = [sys.executable, "-P", "-m", "localai", "chat", *arguments]
    try:
        window.run("new-session", "-d", "-x", "100", "-y", "30", *command, env={**daemon.env, "TERM": "xterm-256color"})
        yield window
    finally:
        subprocess.run(["tmux", "-S", window._socket, "kill-server"], capture_output=True, timeout=60, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_talk_with_the_starter_model_survives_its_terminal(fresh: Daemon) -> None:
    with tmux(fresh, "-m", "starter") as window:
        window.shows("Ask anything")
        window.keys("-l", "Count from one to five hundred in words, one number per line.")
        window.keys("Enter")
        window.shows("answering")
        window.keys("Escape")
        window.shows("Count from one", "stopped")
        wait_for(lambda: "answering" not in window.screen(), LONG_S)
        window.keys("C-r")
        window.shows("branch 2 of 2", "answering")
        window.keys("Escape")
        wait_for(lambda: "answering" not in window.screen(), LONG_S)
        window.keys("C-q")
        wait_for(lambda: not _alive(window), LONG_S)
    chat = fresh.client.get("/localai/conversations")["conversations"][0]
    assert chat["messages"] == 3
    with tmux(fresh, "-c", chat["id"]) as window:
        window.shows("Count from one", "branch 2 of 2")


def _alive(window: Tmux) -> bool:
    try:
        window.screen()
    except subprocess.CalledProcessError:
        return False
    return True
