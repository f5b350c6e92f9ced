"""Conversations as files: Markdown and HTML for reading, JSON for keeping. A conversation enters, text leaves.

Only the branch that is shown goes into Markdown and HTML; JSON holds every branch and can be imported again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from typing import Any, Literal

from localai.conversations import Conversation, StoredMessage

FORMAT = "localai conversation"
VERSION = 1
Kind = Literal["markdown", "json", "html"]
ENDINGS: dict[Kind, str] = {"markdown": ".md", "json": ".json", "html": ".html"}
_NAMES = {"user": "You", "assistant": "Answer", "system": "System", "tool": "Tool"}


def exported(kind: Kind, chat: Conversation, path: Sequence[StoredMessage], tree: Sequence[StoredMessage]) -> str:
    """The text of the file. `path` is the branch that is shown, `tree` all messages, parents first."""
    if kind == "json":
        return json.dumps(as_json(chat, tree), ensure_ascii=False, indent=1) + "\n"
    return as_markdown(chat, path) if kind == "markdown" else as_html(chat, path)


def as_json(chat: Conversation, tree: Sequence[StoredMessage]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, **asdict(chat), "messages": [asdict(message) for message in tree]}


def as_markdown(chat: Conversation, path: Sequence[StoredMessage]) -> str:
    head = f"# {_one_line(chat.title) or 'Untitled'}\n\n{_about(chat)}\n"
    system = f"\n## System\n\n{chat.system}\n" if chat.system else ""
    return head + system + "".join(f"\n## {_heading(message)}\n\n{message.content.rstrip()}\n" for message in path)


def as_html(chat: Conversation, path: Sequence[StoredMessage]) -> str:
    """One page without scripts or links to other files; HTML in the messages is shown as text."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    # A picture would be fetched when the page is opened, which tells its server.
    parser.disable("image")
    turns = "".join(
        f'<section class="{message.role}"><h2>{escape(_heading(message))}</h2>'
        f"{_thoughts(message)}{parser.render(message.content)}</section>"
        for message in path
    )
    title = escape(_one_line(chat.title) or "Untitled")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1><p>{escape(_about(chat))}</p>{turns}</body></html>\n"
    )


def _thoughts(message: StoredMessage) -> str:
    if not message.reasoning:
        return ""
    return f"<details><summary>Thinking</summary><pre>{escape(message.reasoning)}</pre></details>"


def _about(chat: Conversation) -> str:
    begun = datetime.fromtimestamp(chat.created, UTC)
    return f"Begun {begun:%Y-%m-%d %H:%M} UTC{f', model {chat.model}' if chat.model else ''}."


def _heading(message: StoredMessage) -> str:
    made = f" ({message.model})" if message.role == "assistant" and message.model else ""
    return _NAMES.get(message.role, message.role) + made


def _one_line(text: str) -> str:
    return " ".join(text.split())


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "pre{overflow:auto;padding:.6rem;background:#f3f3f3}h2{font-size:1rem;color:#555}"
    "section.user{border-left:4px solid #1b6ca8;padding-left:.8rem}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2rem .5rem}"
)
