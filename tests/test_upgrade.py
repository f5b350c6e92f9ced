"""Files that an earlier version wrote: each opens, keeps what it held, and takes what is new."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database, Migrations

from localai import ledger as ledger_module
from localai.conversation_schema import STEPS as CONVERSATIONS
from localai.conversations import Conversations
from localai.ledger import Ledger
from localai.metrics import Metrics
from localai.tokens import Tokens
from localai.tools.consent import Consents
from memory_store.schema import STEPS as MEMORY
from memory_store.store import Store

LEDGER = (ledger_module.m001_queries, ledger_module.m002_energy, ledger_module.m003_auto, ledger_module.m004_forecasts)


def older(path: Path, name: str, steps: Sequence[Any], rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """A file as a version wrote it that knew `steps` alone, with rows of its tables."""
    with closing(sqlite3.connect(path)) as connection:
        db = Database(connection)
        migrations = Migrations(name)
        for step in steps:
            migrations()(step)
        migrations.apply(db)
        for table, row in rows:
            marks = ", ".join("?" for _ in row)
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        connection.commit()


def tables(path: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {n: {row[1] for row in connection.execute(f"PRAGMA table_info('{n}')")} for n in names}


@pytest.mark.parametrize("known", range(1, len(CONVERSATIONS)))
def test_conversations_of_an_older_version_are_read_and_go_on(tmp_path: Path, known: int) -> None:
    path = tmp_path / "conversations.db"
    spoken = {"reasoning": "", "model": "m", "finish_reason": "stop", "usage": None, "created": 1.0}
    older(
        path,
        "conversations",
        CONVERSATIONS[:known],
        [
            ("conversations", {"id": "c", "title": "t", "system": "", "created": 1.0, "updated": 1.0}),
            ("messages", {"id": "q", "conversation": "c", "role": "user", "content": "old question", **spoken}),
        ],
    )
    with closing(Conversations(path)) as kept:
        assert [message.content for message in kept.path("q")] == ["old question"]
        kept.append("c", "q", "assistant", "new answer")
        assert kept.update("c", pinned=True).pinned
        assert [found.title for found in kept.list()] == ["t"]


@pytest.mark.parametrize("known", range(1, len(LEDGER)))
def test_a_ledger_of_an_older_version_keeps_its_rows(tmp_path: Path, known: int) -> None:
    path = tmp_path / "ledger.db"
    older(path, "ledger", LEDGER[:known], [("queries", {"started": 1.0, "model": "old", "prompt_tokens": 7})])
    with closing(Ledger(path, Metrics())) as kept:
        (row,) = kept.last(5)
        assert (row["model"], row["prompt_tokens"], row["joules"]) == ("old", 7, None)
    fresh = tmp_path / "fresh.db"
    Ledger(fresh, Metrics()).close()
    assert tables(path) == tables(fresh)


@pytest.mark.parametrize("known", range(1, len(MEMORY)))
def test_a_memory_of_an_older_version_is_found(tmp_path: Path, known: int) -> None:
    path = tmp_path / "memory.db"
    text = "The ferry leaves at seven from the old pier."
    memory: dict[str, Any] = dict.fromkeys(("num", "namespace", "source", "fingerprint", "time", "recorded"), 1)
    memory |= {"id": "m1", "kind": "fact", "taint": "person", "state": "kept"}
    memory |= {"tags": "[]", "derived_from": "[]", "text": text}
    older(
        path,
        "memory",
        MEMORY[:known],
        [
            ("namespace", {"id": 1, "name": "default"}),
            ("source", {"id": 1, "kind": "person", "name": "owner", "first": 1.0}),
            ("memory", memory),
            ("memory_text", {"rowid": 1, "text": text}),
            ("log", {"op": "add", "num": 1, "time": 1.0}),
        ],
    )
    with closing(Store(path)) as store:
        assert store.get("m1").text == text
        assert [found.id for found in store.list()] == ["m1"]
    fresh = tmp_path / "fresh.db"
    Store(fresh).close()
    assert tables(path) == tables(fresh)


def test_small_files_of_an_older_version_lack_what_is_new_and_open(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text(
        '{"tokens": [{"name": "a", "digest": "d", "created": 1.0, "scopes": ["infer"]}], "format": 1}'
    )
    assert [token.requests_per_minute for token in Tokens(tmp_path).all()] == [0]
    (tmp_path / "consent.json").write_text('{"format": 1, "later": true}')
    assert Consents(tmp_path).of("a", "d", "ask") == "ask"
