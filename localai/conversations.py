"""Chats and their branches in one SQLite file: messages form a tree, `head` names the leaf that is shown.

Rows enter and leave as frozen dataclasses; one connection behind one lock serves every thread. Every call that writes
is one transaction, on disk when it returns. It knows nothing of models, streaming or JSON on the wire.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, get_args

from sqlite_utils import Database

from localai.attached import typed_of
from localai.conversation_schema import STEPS
from localai.errors import BadRequest, NotFound
from localai.messages import Role
from localai.quotations import Quotations
from localai.sqlite_file import open_file, translated

TITLE_CHARACTERS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One chat. Times are Unix seconds; `title` is "" until a user message gives one.

    `messages` counts those of all branches.
    """

    id: str
    title: str
    model: str | None
    system: str
    created: float
    updated: float
    head: str | None
    messages: int
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One node of a conversation's tree.

    `finish_reason` is None while an answer is being written, and for ever where the daemon was killed meanwhile.
    `figures` tell how an answer was made: engine, reason, timings, memories.
    """

    id: str
    conversation: str
    parent: str | None
    role: Role
    content: str
    reasoning: str
    model: str | None
    finish_reason: str | None
    usage: dict[str, Any] | None
    created: float
    figures: dict[str, Any] | None = None


class Conversations:
    """The store. Usable from any thread; one process writes to a file at a time (the daemon)."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and bring its schema up to date.

        Raises ConfigError where the file cannot be opened, is damaged, or was written by a newer program; such a file
        is left as it was.
        """
        self._lock = RLock()
        self._last_id = 0
        self._db = open_file(path, "conversations", STEPS)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def create(self, *, title: str = "", model: str | None = None, system: str = "") -> Conversation:
        now = time.time()
        with self._transaction() as db:
            row = {"title": title, "model": model, "system": system, "created": now, "updated": now, "head": None}
            conversation = self._new_id()
            db.table("conversations").insert({"id": conversation, **row})
            return self.get(conversation)

    def get(self, conversation: str) -> Conversation:
        """Raises NotFound."""
        rows = self._query(_SELECT_CONVERSATION + "WHERE c.id = ?", conversation)
        if not rows:
            raise _no_conversation(conversation)
        return _conversation_of(rows[0])

    def list(self, *, limit: int = 50, before: str | None = None) -> tuple[Conversation, ...]:
        """Pinned ones first, then the last used; `before` is the id of the one where the previous page ended."""
        if limit < 1:
            raise BadRequest(f"limit is {limit}, which shows nothing", "give a limit of 1 or more", param="limit")
        if before is None:
            rows = self._query(_SELECT_CONVERSATION + _ORDER, limit)
        else:
            border = self.get(before)
            rows = self._query(
                _SELECT_CONVERSATION + "WHERE (c.pinned, c.updated, c.id) < (?, ?, ?) " + _ORDER,
                border.pinned,
                border.updated,
                border.id,
                limit,
            )
        return tuple(map(_conversation_of, rows))

    def update(
        self,
        conversation: str,
        *,
        title: str | None = None,
        system: str | None = None,
        model: str | None = None,
        head: str | None = None,
        pinned: bool | None = None,
    ) -> Conversation:
        """Change what is given, leave what is None.

        `head` must be a message of this conversation, or "" for none, so that the next message is a new root. Raises
        NotFound.
        """
        given = {"title": title, "system": system, "model": model, "head": head, "pinned": pinned}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        with self._transaction() as db:
            self.get(conversation)
            if head:
                self._require_member(conversation, head)
            if head == "":
                changes["head"] = None
            db.table("conversations").update(conversation, {**changes, "updated": time.time()})
            return self.get(conversation)

    def set_head(self, conversation: str, message: str) -> Conversation:
        """Show the branch that ends in `message`. Raises NotFound where it belongs to another conversation."""
        return self.update(conversation, head=message)

    def delete(self, conversation: str) -> None:
        """Remove a conversation with all its messages. Raises NotFound."""
        with self._transaction() as db:
            self.get(conversation)
            _remove(db, [message.id for message in self.tree(conversation)])
            db.execute("DELETE FROM conversations WHERE id = ?", [conversation])

    def append(
        self,
        conversation: str,
        parent: str | None,
        role: Role,
        content: str,
        *,
        reasoning: str = "",
        model: str | None = None,
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> StoredMessage:
        """Add a message under `parent` (None begins a branch at the root) and make it the head.

        The first user message names a conversation that has no title. Raises NotFound, BadRequest.
        """
        if role not in get_args(Role):
            raise BadRequest(f"no role {role!r}", "use system, user, assistant or tool", param="role")
        now = time.time()
        message = StoredMessage(
            id=self._new_id(),
            conversation=conversation,
            parent=parent,
            role=role,
            content=content,
            reasoning=reasoning,
            model=model,
            finish_reason=finish_reason,
            usage=usage,
            created=now,
        )
        with self._transaction() as db:
            chat = self.get(conversation)
            if parent is not None:
                self._require_member(conversation, parent)
            db.table("messages").insert(_row_of(message))
            title = chat.title or (title_of(content) if role == "user" else "")
            db.table("conversations").update(conversation, {"head": message.id, "title": title, "updated": now})
        return message

    def plant(self, conversation: str, messages: Sequence[StoredMessage], head: str | None) -> Conversation:
        """Add a whole tree, parents before their children, under new ids; `head` is one of the old ids."""
        ids: dict[str, str] = {}
        with self._transaction() as db:
            rows = []
            for message in messages:
                ids[message.id] = self._new_id()
                parent = None if message.parent is None else ids[message.parent]
                rows.append({**_row_of(message), "id": ids[message.id], "parent": parent, "conversation": conversation})
            names = StoredMessage.__slots__
            values = ", ".join(f":{name}" for name in names)
            db.conn.executemany(f"INSERT INTO messages ({', '.join(names)}) VALUES ({values})", rows)
            shown = None if head is None else ids[head]
            db.table("conversations").update(conversation, {"head": shown})
            return self.get(conversation)

    def cut(self, message: str) -> Conversation:
        """Remove a message and all that follows from it; a head among them becomes its parent. Raises NotFound."""
        with self._transaction() as db:
            found = self.message(message)
            head = self.get(found.conversation).head
            if head is not None and any(above.id == message for above in self.path(head)):
                db.table("conversations").update(found.conversation, {"head": found.parent})
            cut = {message: None}
            for below in self.tree(found.conversation):
                if below.parent in cut:
                    cut[below.id] = None
            _remove(db, [*cut])
            return self.get(found.conversation)

    def extend(self, message: str, content: str = "", *, reasoning: str = "") -> None:
        """Append text to a message that is being written; the caller batches. Raises NotFound."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE messages SET content = content || ?, reasoning = reasoning || ? WHERE id = ?",
                [content, reasoning, message],
            )
            if changed.rowcount == 0:
                raise _no_message(message)

    def finish(
        self,
        message: str,
        reason: str,
        usage: dict[str, Any] | None = None,
        *,
        model: str | None = None,
        figures: dict[str, Any] | None = None,
    ) -> StoredMessage:
        """End a message: why it ended, what it took, how it was made, and which model answered if known only now."""
        with self._transaction() as db:
            before = self.message(message)
            end = {"finish_reason": reason, "model": model or before.model}
            end |= {"usage": _json_text(usage), "figures": _json_text(figures)}
            db.table("messages").update(message, end)
            db.table("conversations").update(before.conversation, {"updated": time.time()})
            return self.message(message)

    def message(self, message: str) -> StoredMessage:
        """Raises NotFound."""
        rows = self._query("SELECT * FROM messages WHERE id = ?", message)
        if not rows:
            raise _no_message(message)
        return _message_of(rows[0])

    def path(self, message: str) -> tuple[StoredMessage, ...]:
        """From the root of the tree to `message`, both included. Raises NotFound."""
        known = {found.id: found for found in self.tree(self.message(message).conversation)}
        path = []
        at: str | None = message
        while at is not None:
            path.append(known[at])
            at = known[at].parent
        return tuple(reversed(path))

    def tree(self, conversation: str) -> tuple[StoredMessage, ...]:
        """Every message of every branch, parents before their children. Raises NotFound."""
        self.get(conversation)
        rows = self._query("SELECT * FROM messages WHERE conversation = ? ORDER BY rowid", conversation)
        return tuple(map(_message_of, rows))

    def texts(self) -> tuple[tuple[str, str, str], ...]:
        """Conversation, id and text of everything that a person or a model said, the newest first."""
        sql = "SELECT conversation, id, content FROM messages WHERE role IN ('user', 'assistant') ORDER BY rowid DESC"
        return tuple((row["conversation"], row["id"], row["content"]) for row in self._query(sql))

    def children(self, message: str) -> tuple[StoredMessage, ...]:
        """The answers to, or continuations of, `message`, oldest first."""
        rows = self._query("SELECT * FROM messages WHERE parent = ? ORDER BY rowid", message)
        return tuple(map(_message_of, rows))

    def quoting(self, quotations: Quotations) -> tuple[str, ...]:
        """Ids of conversations with a message that quotes one of these."""
        every = [row["id"] for row in self._query("SELECT id FROM conversations ORDER BY id")] if quotations else []
        sql = "SELECT content FROM messages WHERE conversation = ?"
        return tuple(one for one in every if any(quotations.within(row["content"]) for row in self._query(sql, one)))

    def _require_member(self, conversation: str, message: str) -> None:
        if self.message(message).conversation != conversation:
            raise _no_message(message)

    def _query(self, sql: str, *values: object) -> tuple[dict[str, Any], ...]:
        with self._lock, translated("conversations"):
            cursor = self._db.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return tuple(dict(zip(names, row, strict=True)) for row in cursor)

    @contextmanager
    def _transaction(self) -> Iterator[Database]:
        with self._lock, translated("conversations"), self._db.atomic():
            yield self._db

    def _new_id(self) -> str:
        """20 hex digits: 48 bits of milliseconds, then 32 random bits; ever rising within a process."""
        with self._lock:
            drawn = (int(time.time() * 1000) << 32) | secrets.randbits(32)
            self._last_id = max(drawn, self._last_id + 1)
            return f"{self._last_id:020x}"


_SELECT_CONVERSATION = """
    SELECT c.id, c.title, c.model, c.system, c.created, c.updated, c.head,
           c.pinned, (SELECT count(*) FROM messages m WHERE m.conversation = c.id) AS messages
    FROM conversations c
    """
_ORDER = "ORDER BY c.pinned DESC, c.updated DESC, c.id DESC LIMIT ?"


def title_of(text: str) -> str:
    """A title from a first message: what was typed, in one line, cut between words where that leaves something."""
    line = " ".join(typed_of(text).split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    head = line[:TITLE_CHARACTERS]
    return (head.rpartition(" ")[0] or head) + "…"


def _no_conversation(conversation: str) -> NotFound:
    return NotFound(f"no conversation {conversation!r}", "GET /localai/conversations lists them")


def _no_message(message: str) -> NotFound:
    return NotFound(f"no message {message!r} in this conversation", "GET /localai/conversations/{id} lists them")


def _remove(db: Database, messages: Sequence[str]) -> None:
    """Children, which come after their parents, go first: SQLite follows a chain of cascades only 1,000 deep."""
    db.conn.executemany("DELETE FROM messages WHERE id = ?", [(message,) for message in reversed(messages)])


def _json_text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _row_of(message: StoredMessage) -> dict[str, Any]:
    fields = {name: getattr(message, name) for name in StoredMessage.__slots__}
    return fields | {"usage": _json_text(message.usage), "figures": _json_text(message.figures)}


def _message_of(row: dict[str, Any]) -> StoredMessage:
    loaded = {name: None if row[name] is None else json.loads(row[name]) for name in ("usage", "figures")}
    return StoredMessage(**{**row, **loaded})


def _conversation_of(row: dict[str, Any]) -> Conversation:
    return Conversation(**{**row, "pinned": bool(row["pinned"])})
