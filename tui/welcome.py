"""What the first run says: the daemon's word on this machine, its model and its memory, as Markdown."""

from __future__ import annotations

from localai.client import Client
from localai.errors import LocalaiError
from tui.sanitize import one_line


def welcome(client: Client) -> str:
    """ "" where there are conversations already, or the daemon does not answer. Blocks."""
    try:
        if client.get("/localai/conversations?limit=1")["conversations"]:
            return ""
        models = [row["id"] for row in client.get("/v1/models")["data"]]
        status = client.get("/localai/status")
    except LocalaiError:
        return ""
    found = ", ".join(f"`{one_line(name)}`" for name in models[:4]) or "none yet: type `/pull smollm2`"
    return (
        "# Welcome\n\n"
        f"- **Models here**: {found}. F4 shows what each would cost on this machine.\n"
        f"- **Where things are**: `{one_line(status['home'])}`. Nothing leaves this machine.\n"
        "- **Memory**: the chat recalls what you stored; it stores nothing by itself. `/remember TEXT` keeps a text, "
        "F6 shows what an answer was given.\n"
        "- **Keys**: F1 lists all. `/` lists commands, `@` attaches files. Type your first message.\n"
    )
