"""What the first run says: the daemon's word on this machine, its model and its memory, as Markdown."""

from __future__ import annotations

from urllib.parse import quote

from localai.client import Client
from localai.errors import LocalaiError
from localai.sanitize import one_line
from tui.remembering import Mode

_KEPT: dict[Mode, str] = {
    "ask": "What you say about yourself is stored only when you say yes to it",
    "auto": "What you say about yourself is stored at once",
    "off": "It stores nothing by itself",
}


def welcome(client: Client, memories: Mode) -> str:
    """ "" where there are conversations already, or the daemon does not answer. Blocks."""
    try:
        if client.get("/localai/conversations?limit=1")["conversations"]:
            return ""
        models = [row["id"] for row in client.get("/v1/models")["data"]]
        status = client.get("/localai/status")
        device = _device(client, models[0]) if models else ""
    except LocalaiError:
        return ""
    found = ", ".join(f"`{one_line(name)}`" for name in models[:4]) or "none yet: type `/pull smollm2`"
    return (
        "# Welcome\n\n"
        f"{device}"
        f"- **Models here**: {found}. F4 shows what each would cost on this machine.\n"
        f"- **Where things are**: `{one_line(status['home'])}`. Nothing leaves this machine.\n"
        f"- **Memory**: the chat recalls what you stored. {_KEPT[memories]}; `/memories` changes that. "
        "`/remember TEXT` keeps a text, F6 shows what an answer was given.\n"
        "- **Keys**: F1 lists all. `/` lists commands, `@` attaches files. Type your first message.\n"
    )


def _device(client: Client, model: str) -> str:
    found = client.get(f"/localai/plan?model={quote(model)}", timeout=60)["device"]
    room = f"{found['ram_bytes'] / 2**30:.1f} GiB of memory for models"
    gpu = f", {found['vram_bytes'] / 2**30:.1f} GiB on a GPU" if found["vram_bytes"] else ""
    return f"- **This machine**: {one_line(found['cpu'])}, {found['threads']} threads, {room}{gpu}.\n"
