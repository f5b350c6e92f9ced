"""Draws the README's pictures of the chat.

python -m tests.make_pictures [NAME ...]
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from localai.client import Client
from tests.daemon_fixture import Daemon
from tests.tui_scenes import PICTURES, SCENES, still_daemon
from tui.app import ChatApp

SIZE = 104, 34
USUAL = ("chat", "dashboard", "memory", "bench", "models", "branches")


async def draw(daemon: Daemon, conversation: str, name: str) -> None:
    app = ChatApp(Client(daemon.socket), conversation)
    async with app.run_test(size=SIZE) as pilot:
        await SCENES[name](pilot)
        (PICTURES / f"{name}.svg").write_text(app.export_screenshot(title="localai chat"), encoding="utf-8")


def main() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    PICTURES.mkdir(exist_ok=True)
    with still_daemon() as (daemon, conversation):
        for name in sys.argv[1:] or USUAL:
            asyncio.run(draw(daemon, conversation, name))


if __name__ == "__main__":
    main()
