"""The schema of the conversations' file, as steps that `sqlite_file` applies. Append only."""

from __future__ import annotations

from sqlite_utils import Database

from localai.sqlite_file import Step


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


def m002_pins_and_figures(db: Database) -> None:
    db.execute("ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE messages ADD COLUMN figures TEXT")


# Append only: a released step is never edited, because files in the field have it already.
STEPS: tuple[Step, ...] = (m001_conversations, m002_pins_and_figures)
