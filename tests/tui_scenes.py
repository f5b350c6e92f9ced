"""A daemon whose home never changes, and the chat's screens over it: for snapshots and for the README's pictures."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from localai.bench import report
from localai.bench.journal import folder
from localai.conversation_files import FORMAT, VERSION
from tests.bench_reports import made
from tests.daemon_fixture import Daemon, running
from tests.tui_driver import Driver, app_of, shows, wait_until
from tui.dashboard import KEPT, Dashboard, Engine, Reading
from tui.models import Cost, ModelLine, Models
from tui.tools import ToolLine, Tools

NOON = 1_700_049_600.0
_ANSWER = """Blocks of 256 tokens are kept in **three tiers**:

| tier | speed | survives a restart |
|---|---|---|
| live | at once | no |
| RAM | 9 ms | no |
| SSD | 90 ms | yes |

```python
def key(parent: bytes, tokens: list[int]) -> bytes:
    return sha256(parent + pack(tokens)).digest()
```

1. A block is used only after its checksum matches.
2. Wide characters stay in line: 日本語, 🙂, עברית.
"""
_FIGURES = {
    "backend": "onnx:kv8",
    "reason": "onnx:kv8: 1.9 s expected, the least of 3 that fit; llama.cpp: 2.6 s",
    "n_ctx": 8192,
    "timings": {"decode_tps": 164.2, "ttft_ms": 96.0, "cached": {"live": 512, "ram": 256, "ssd": 0}},
    "memories": [
        {"id": "m1", "source": "person:owner", "trust": 0.9},
        {"id": "m2", "source": "file:notes.md", "trust": 0.5},
    ],
}
_USAGE = {
    "prompt_tokens": 1210,
    "completion_tokens": 148,
    "energy": {"joules": 14.2, "quality": "measured_partial"},
}


@contextmanager
def still_daemon() -> Iterator[tuple[Daemon, str]]:
    """A daemon that was asked nothing, and the id of its conversation."""
    with running() as daemon:
        for memory, text in (("m1", "The cache folder lies on the fast disk."), ("m2", "Blocks have 256 tokens.")):
            daemon.client.post("/localai/memory", {"id": memory, "text": text, "time": NOON})
        said = [
            _said("1", None, "user", "How does the KV cache survive a restart?"),
            _said("2", "1", "assistant", "It is written to the SSD.", finish_reason="stop"),
            _said("3", "1", "assistant", _ANSWER, reasoning="Three tiers.", finish_reason="stop", usage=_USAGE)
            | {"figures": _FIGURES, "model": "smollm2-135m-instruct"},
        ]
        chat = {"format": FORMAT, "version": VERSION, "title": "How the cache works", "head": "3", "messages": said}
        one = {"messages": [{"role": "user", "content": "Name a colour"}, {"role": "assistant", "content": "Blue."}]}
        ids = [
            c["id"]
            for c in daemon.client.post("/localai/conversations/import", {"content": [chat, one]})["conversations"]
        ]
        daemon.client.patch(f"/localai/conversations/{ids[0]}", {"pinned": True})
        daemon.client.post("/localai/memory/m2/pin", {"pinned": True})
        with closing(sqlite3.connect(daemon.home / "conversations.db", timeout=30)) as db, db:
            db.execute("UPDATE conversations SET updated = ?", [NOON])
        found = made(daemon.home, {"smollm2": (0.55, 3.0), "qwen3-0.6b": (0.8, 12.0), "qwen3-4b": (0.86, 70.0)})
        (folder(daemon.home) / "run").mkdir()
        (folder(daemon.home) / "run" / "report.json").write_text(json.dumps(report.as_json(found)))
        yield daemon, ids[0]


def _said(name: str, parent: str | None, role: str, content: str, **more: object) -> dict[str, object]:
    plain = {"conversation": "", "reasoning": "", "model": None, "finish_reason": None, "usage": None}
    return {"id": name, "parent": parent, "role": role, "content": content, "created": NOON, **plain, **more}


async def chat(pilot: Driver) -> None:
    await shows(pilot, "How the cache works", "checksum matches", "164.2 tok/s")
    app_of(pilot).chat.prompt.cursor_blink = False
    await pilot.pause()


async def commands(pilot: Driver) -> None:
    await chat(pilot)
    await pilot.press("/", "m")
    await shows(pilot, "what was recalled for the answer")


async def conversations(pilot: Driver) -> None:
    await _over(pilot, "f2", "Name a colour")


async def branches(pilot: Driver) -> None:
    await _over(pilot, "f3", "It is written to the SSD.")


async def memory(pilot: Driver) -> None:
    await _over(pilot, "f6", "Blocks have 256 tokens.")


async def bench(pilot: Driver) -> None:
    await _over(pilot, "f7", "accuracy against joules")


async def keys(pilot: Driver) -> None:
    await _over(pilot, "f1", "Ctrl+R")


async def models(pilot: Driver) -> None:
    await chat(pilot)
    screen = Models(app_of(pilot).chat.client)
    guess = Cost("about", True, False, 6.4, 1.9, 2890 * 2**20, rough=True)
    lines = (
        ModelLine("qwen3-0.6b", "Q8_0", 32768, False),
        ModelLine("smollm2-135m-instruct", "Q4_1", 8192, True),
        ModelLine("qwen3-4b-instruct", "Q4_K_M", 262144, False, False, 2_497_281_120, guess),
    )
    costs = {
        lines[0].id: (Cost("llama.cpp", True, False, 38.0, 0.31, 805 * 2**20),),
        lines[1].id: (
            Cost("onnx:kv8", True, True, 164.2, 0.071, 310 * 2**20),
            Cost("llama.cpp", True, True, 123.0, 0.094, 236 * 2**20),
            Cost("mlx:host", True, False, 11.0, None, 900 * 2**20),
        ),
    }
    await app_of(pilot).push_screen(screen)
    await wait_until(pilot, lambda: screen.rows.option_count)
    screen.show(lines, costs)
    await shows(pilot, "0.071 J/token")


async def tools(pilot: Driver) -> None:
    await chat(pilot)
    screen = Tools(app_of(pilot).chat.client, ("notes__search",), live=False)
    await app_of(pilot).push_screen(screen)
    lines = (
        ToolLine("notes__search", "notes", "Search the notes of this folder.", "always"),
        ToolLine("notes__write", "notes", "Write a note.", "ask"),
        ToolLine("shop__buy", "shop", "Order something.", "never"),
    )
    screen.show(lines, ("tracker: it does not answer",))
    await shows(pilot, "[x] notes__search")


async def dashboard(pilot: Driver) -> None:
    await chat(pilot)
    screen = Dashboard(app_of(pilot).chat.client, deque(maxlen=KEPT), live=False)
    await app_of(pilot).push_screen(screen)
    engines = (
        Engine(
            "smollm2-135m-instruct",
            "onnx:kv8",
            "loaded",
            2,
            2,
            310 * 2**20,
            None,
            (("live", 5120), ("ssd", 768)),
            2**26,
        ),
        Engine("qwen3-30b-a3b", "llama.cpp", "loaded", 1, 2, 6 * 2**30, 0.34, (("ram", 256),), 2**28, _LAYERS, 6),
    )
    joules, readings = 0.0, []
    for number in range(60):
        joules += 2.0 * (6.0 + 5.0 * ((number * 7) % 11) / 11)
        pressure = (("cpu", 12.0), ("io", 3.0), ("memory", 0.0))
        readings.append(Reading(2.0 * number, 7200.0, engines, pressure, 128, joules, "measured_partial", ""))
    screen.show(*readings)
    await shows(pilot, "qwen3-30b-a3b")


async def _over(pilot: Driver, key: str, text: str) -> None:
    await chat(pilot)
    await pilot.press(key)
    await shows(pilot, text)


SCENES: dict[str, Callable[[Driver], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (chat, commands, conversations, branches, models, tools, memory, dashboard, bench, keys)
}
_LAYERS = tuple([1.0] * 8 + [round(0.9 - 0.03 * layer, 2) for layer in range(30)] + [0.0] * 4 + [1.0] * 6)
PICTURES = Path(__file__).parent / "pictures"
