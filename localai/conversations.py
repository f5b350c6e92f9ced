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

from localai.errors import BadRequest, NotFound
from localai.messages import Role
from localai.sqlite_file import Step, open_file, translated

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One node of a conversation's tree.

    `finish_reason` is None while an answer is being written, and for ever where the daemon was killed meanwhile.
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


def m001_conversations(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE conversations (
            id TEXT PRIMARY KEY,
            title TEXT NOT NULL,
            model TEXT,
            system TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            head TEXT REFERENCES messages(id) ON DELETE SET NULL
        );
        CREATE INDEX conversations_updated ON conversations(updated, id);
        CREATE TABLE messages (
            id TEXT PRIMARY KEY,
            conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
            parent TEXT REFERENCES messages(id) ON DELETE CASCADE,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            reasoning TEXT NOT NULL,
            model TEXT,
            finish_reason TEXT,
            usage TEXT,
            created REAL NOT NULL
        );
        CREATE INDEX messages_conversation ON messages(conversation);
        CREATE INDEX messages_parent ON messages(parent);
        """
    )


# Append only: a released step is never edited, because files in the field have it already.
STEPS: tuple[Step, ...] = (m001_conversations,)


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
        return Conversation(**rows[0])

    def list(self, *, limit: int = 50, before: str | None = None) -> tuple[Conversation, ...]:
        """The last used first; `before` is the id of the conversation where the previous page ended."""
        if limit < 1:
            raise BadRequest(f"limit is {limit}, which shows nothing", "give a limit of 1 or more", param="limit")
        if before is None:
            rows = self._query(_SELECT_CONVERSATION + "ORDER BY c.updated DESC, c.id DESC LIMIT ?", limit)
        else:
            border = self.get(before)
            rows = self._query(
                _SELECT_CONVERSATION + "WHERE (c.updated, c.id) < (?, ?) ORDER BY c.updated DESC, c.id DESC LIMIT ?",
                border.updated,
                border.id,
                limit,
            )
        return tuple(Conversation(**row) for row in rows)

    def update(
        self,
        conversation: str,
        *,
        title: str | None = None,
        system: str | None = None,
        model: str | None = None,
        head: str | None = None,
    ) -> Conversation:
        """Change what is given, leave what is None. Raises NotFound; `head` must be a message of this conversation."""
        given = {"title": title, "system": system, "model": model, "head": head}
        changes = {name: value for name, value in given.items() if value is not None}
        with self._transaction() as db:
            self.get(conversation)
            if head is not None:
                self._require_member(conversation, head)
            db.table("conversations").update(conversation, {**changes, "updated": time.time()})
            return self.get(conversation)

    def set_head(self, conversation: str, message: str) -> Conversation:
        """Show the branch that ends in `message`. Raises NotFound where it belongs to another conversation."""
        return self.update(conversation, head=message)

    def delete(self, conversation: str) -> None:
        """Remove a conversation with all its messages. Raises NotFound."""
        with self._transaction() as db:
            self.get(conversation)
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
        self, message: str, reason: str, usage: dict[str, Any] | None = None, *, model: str | None = None
    ) -> StoredMessage:
        """End a message: why it ended, what it took, and which model answered where that became known late."""
        with self._transaction() as db:
            before = self.message(message)
            end = {"finish_reason": reason, "usage": _usage_text(usage), "model": model or before.model}
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
        rows = self._query(
            """
            WITH RECURSIVE up(id, parent, depth) AS (
                SELECT id, parent, 0 FROM messages WHERE id = ?
                UNION ALL
                SELECT m.id, m.parent, up.depth + 1 FROM messages m JOIN up ON m.id = up.parent
            )
            SELECT m.* FROM up JOIN messages m ON m.id = up.id ORDER BY up.depth DESC
            """,
            message,
        )
        if not rows:
            raise _no_message(message)
        return tuple(map(_message_of, rows))

    def children(self, message: str) -> tuple[StoredMessage, ...]:
        """The answers to, or continuations of, `message`, oldest first."""
        rows = self._query("SELECT * FROM messages WHERE parent = ? ORDER BY rowid", message)
        return tuple(map(_message_of, rows))

    def quoting(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Ids of conversations with a message that contains one of these texts."""
        sql = "SELECT DISTINCT conversation FROM messages WHERE instr(content, ?) > 0"
        found = {row["conversation"]: None for text in texts for row in self._query(sql, text)}
        return tuple(found)

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
           (SELECT count(*) FROM messages m WHERE m.conversation = c.id) AS messages
    FROM conversations c
    """


def title_of(text: str) -> str:
    """A title from a first message: its beginning in one line, cut between words where that leaves something."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    head = line[:TITLE_CHARACTERS]
    return (head.rpartition(" ")[0] or head) + "…"


def _no_conversation(conversation: str) -> NotFound:
    return NotFound(f"no conversation {conversation!r}", "GET /localai/conversations lists them")


def _no_message(message: str) -> NotFound:
    return NotFound(f"no message {message!r} in this conversation", "GET /localai/conversations/{id} lists them")


def _usage_text(usage: dict[str, Any] | None) -> str | None:
    return None if usage is None else json.dumps(usage, ensure_ascii=False)


def _row_of(message: StoredMessage) -> dict[str, Any]:
    names = StoredMessage.__slots__
    return {name: getattr(message, name) for name in names} | {"usage": _usage_text(message.usage)}


def _message_of(row: dict[str, Any]) -> StoredMessage:
    usage = row["usage"]
    return StoredMessage(**{**row, "usage": None if usage is None else json.loads(usage)})
