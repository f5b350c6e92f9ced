"""How each screen looks, at two sizes, in each theme, and in a small terminal. Times, ids and figures are fixed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.screen import Screen

from tests.daemon_fixture import Daemon
from tests.tui_driver import Driver, chat, opened, seen
from tests.tui_scenes import SCENES, still_daemon
from tui.app import ChatApp
from tui.settings import Settings

Compare = Callable[..., bool]


@pytest.fixture(scope="module")
def still() -> Iterator[tuple[Daemon, str]]:
    with still_daemon() as made:
        yield made


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("scene", SCENES)
def test_the_screen_looks_as_it_did(
    still: tuple[Daemon, str],
    pictured: set[type],
    scene: str,
    size: tuple[int, int],
    tmp_path: Path,
    snap_compare: Compare,
) -> None:
    app = chat(still[0], tmp_path, still[1])

    async def play(pilot: Driver) -> None:
        await SCENES[scene](pilot)
        pictured.add(type(pilot.app.screen))

    assert snap_compare(app, terminal_size=size, run_before=play)


@pytest.fixture(scope="module")
def pictured() -> set[type]:
    """Filled by the scenes as they are shown."""
    return set()


def test_no_screen_is_left_out(pictured: set[type]) -> None:
    """Runs after the scenes; every screen of the chat that others do not build on has one."""
    waiting: list[type] = [Screen]
    last: set[type] = set()
    while waiting:
        found = waiting.pop()
        below: list[type] = found.__subclasses__()
        waiting += below
        if not below and found.__module__.startswith("tui."):
            last.add(found)
    assert len(last) > 7
    assert not pictured or pictured == last


@pytest.mark.parametrize("theme", ["textual-light", "contrast"])
def test_the_themes_look_as_they_did(
    still: tuple[Daemon, str], theme: str, tmp_path: Path, snap_compare: Compare
) -> None:
    app = ChatApp(still[0].client, still[1], folder=tmp_path, settings=Settings(theme=theme))
    assert snap_compare(app, terminal_size=(80, 24), run_before=SCENES["chat"])


@pytest.mark.parametrize(("theme", "size"), [("plain", (80, 24)), ("", (60, 18))], ids=["no colour", "60x18"])
async def test_all_parts_show(still: tuple[Daemon, str], theme: str, size: tuple[int, int], tmp_path: Path) -> None:
    app = ChatApp(still[0].client, still[1], folder=tmp_path, settings=Settings(theme=theme))
    async with opened(app, size) as pilot:
        await SCENES["chat"](pilot)
        screen = seen(pilot)
    assert all(part in screen for part in ("How the cache works", "Ask anything", "f1 Help", "branch 2 of 2"))
