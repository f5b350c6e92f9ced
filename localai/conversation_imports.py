"""Chats of other programs: parsed JSON enters, trees of messages leave.

Read are our own export, ChatGPT's `conversations.json`, Open WebUI's export of chats, and request bodies in Ollama's
or OpenAI's shape (`{"model", "messages"}`). Nothing is written, and what cannot be understood raises BadRequest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import unescape
from typing import Any, get_args

from localai.conversation_files import FORMAT, VERSION
from localai.conversations import StoredMessage, title_of
from localai.errors import BadRequest
from localai.messages import Role

_HINT = "give an export of localai, ChatGPT (conversations.json), Open WebUI, or {model, messages} as Ollama takes it"
_Json = dict[str, Any]
_THOUGHTS = re.compile(
    r"\s*(?:<(?P<tag>think|thinking|thought)>(?P<plain>.*?)(?:</(?P=tag)>|\Z)"
    r'|<details type="reasoning"[^>]*>\s*(?:<summary>.*?</summary>)?(?P<quoted>.*?)</details>)',
    re.DOTALL,
)
_QUOTED = re.compile(r"^[ \t]*(?:>|&gt;) ?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Imported:
    """One chat; `messages` have parents before their children, `head` is the id of one of them."""

    title: str
    model: str | None
    system: str
    messages: tuple[StoredMessage, ...]
    head: str | None


def imported(value: Any) -> tuple[Imported, ...]:
    """Every chat of a file. Raises BadRequest where it is of no known kind, damaged, or of a newer version."""
    rows = value if isinstance(value, list) else [value]
    try:
        chats = [_chat(row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadRequest("the file is of no known kind, or damaged", _HINT) from error
    found = tuple(chat for chat in chats if chat.messages)
    if not found:
        raise BadRequest("there is no message in this file", _HINT)
    return found


def _chat(row: _Json) -> Imported:
    if row.get("format") == FORMAT:
        return _own(row)
    if "mapping" in row:
        return _chatgpt(row)
    if isinstance(row.get("chat"), dict):
        return _open_webui(row)
    return _plain(row)


def _own(row: _Json) -> Imported:
    if row["version"] > VERSION:
        raise BadRequest(f"this export is of version {row['version']}, known here is {VERSION}", "upgrade localai")
    drawn = [StoredMessage(**message) for message in row["messages"]]
    return _tree(str(row["title"]), row.get("model"), str(row.get("system") or ""), drawn, row.get("head"))


def _chatgpt(row: _Json) -> Imported:
    nodes: dict[str, _Json] = row["mapping"]
    drawn = []
    for name, node in nodes.items():
        said = node.get("message") or {}
        role, text = (said.get("author") or {}).get("role"), _text(said.get("content"))
        drawn.append(_message(name, node.get("parent"), role, text, said.get("create_time")))
    return _tree(str(row.get("title") or ""), None, "", drawn, row.get("current_node"))


def _open_webui(row: _Json) -> Imported:
    chat = row["chat"]
    nodes: dict[str, _Json] = chat["history"]["messages"]
    drawn = [
        _message(name, said.get("parentId"), said.get("role"), said.get("content") or "", said.get("timestamp"))
        for name, said in nodes.items()
    ]
    models = chat.get("models") or [None]
    return _tree(str(chat.get("title") or row.get("title") or ""), models[0], "", drawn, chat["history"]["currentId"])


def _plain(row: _Json) -> Imported:
    said = [(m["role"], _text(m["content"])) for m in row["messages"]]
    system = "\n\n".join(text for role, text in said if role == "system")
    kept = [(role, text) for role, text in said if role != "system"]
    drawn = [_message(str(n), str(n - 1) if n else None, role, text, None) for n, (role, text) in enumerate(kept)]
    return _tree("", row.get("model"), system, drawn, drawn[-1].id if drawn else None)


def _text(content: Any) -> str:
    """The words of a message's content: a text, or parts of which some are texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = content.get("parts") or [content.get("text") or ""]
    parts = [part if isinstance(part, str) else part.get("text") or "" for part in content or []]
    return "\n".join(part for part in parts if part)


def _message(name: str, parent: str | None, role: Any, content: str, at: Any) -> StoredMessage:
    if not isinstance(content, str):
        raise TypeError(content)
    reasoning, content = _thoughts(content) if role == "assistant" else ("", content)
    return StoredMessage(
        id=name,
        conversation="",
        parent=parent,
        role=role,
        content=content,
        reasoning=reasoning,
        model=None,
        finish_reason="stop" if role == "assistant" else None,
        usage=None,
        created=float(at or 0.0),
    )


def _thoughts(content: str) -> tuple[str, str]:
    """What a model thought before its answer, as programs write that into the text, and the answer."""
    found = _THOUGHTS.match(content)
    if found is None:
        return "", content
    thought = unescape(_QUOTED.sub("", found["quoted"])) if found["quoted"] is not None else found["plain"]
    return thought.strip(), content[found.end() :].lstrip()


def _tree(title: str, model: str | None, system: str, drawn: list[StoredMessage], head: str | None) -> Imported:
    """In order, without empty and foreign nodes: what hangs under one of those moves up."""
    known = {message.id: message for message in drawn}
    kept = {m.id for m in drawn if m.role in get_args(Role) and m.role != "system" and (m.content or m.reasoning)}

    def above(name: str | None) -> str | None:
        seen = set()
        while name is not None and name not in kept:
            if name in seen or name not in known:
                return None
            seen.add(name)
            name = known[name].parent
        return name

    placed = [replace(m, parent=above(m.parent)) for m in drawn if m.id in kept]
    ordered = tuple(_parents_first(placed))
    if len(ordered) != len(placed):
        raise ValueError("the messages form a circle")
    first = next((m.content for m in ordered if m.role == "user"), "")
    return Imported(
        title or title_of(first), model, system, ordered, above(head) or (ordered[-1].id if ordered else None)
    )


def _parents_first(messages: list[StoredMessage]) -> Iterator[StoredMessage]:
    below: dict[str | None, list[StoredMessage]] = {}
    for message in messages:
        below.setdefault(message.parent, []).append(message)
    waiting = list(reversed(below.get(None, [])))
    while waiting:
        message = waiting.pop()
        yield message
        waiting += reversed(below.get(message.id, []))
