"""Where tests find tools: a server that runs, and a `tools.toml` that names it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon_fixture import answers, free_port, wait_for

_SERVER = str(Path(__file__).with_name("tool_server.py"))


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, _SERVER, str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port), 120)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(60)


def declare(home: Path, more: str = "", *, url: str = "") -> None:
    """One server, at `url` or as a child of the daemon's."""
    where = f"url = {json.dumps(url)}" if url else f"command = {json.dumps([sys.executable, _SERVER])}"
    (home / "tools.toml").write_text(f"[little]\n{where}\ntimeout = 300\n{more}")
