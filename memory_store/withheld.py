"""What files say and a person has forgotten: it stays so until the text changes, or the file is added by hand.

Memories and texts enter, which of them were forgotten leaves. The file holds keyed hashes alone, of which no text can
be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memory_store.dbfile import Connection
from memory_store.intake import fingerprint
from memory_store.records import Memory


def note(connection: Connection, salt: bytes, memories: Iterable[Memory]) -> None:
    """Within the transaction that erases them: what documents said is not to be read from them again."""
    found = [
        (_key(salt, memory.namespace, memory.text), _key(salt, memory.namespace, memory.author.name))
        for memory in memories
        if memory.author.kind == "file"
    ]
    connection.executemany("INSERT OR IGNORE INTO withheld (text, file) VALUES (?, ?)", found)


def among(connection: Connection, salt: bytes, namespace: str, texts: Sequence[str]) -> set[str]:
    """Those of the texts that were forgotten, whichever document said them."""
    if connection.execute("SELECT 1 FROM withheld LIMIT 1").fetchone() is None:
        return set()
    sql = "SELECT 1 FROM withheld WHERE text = ? LIMIT 1"
    return {text for text in texts if connection.execute(sql, (_key(salt, namespace, text),)).fetchone() is not None}


def said_by(connection: Connection, salt: bytes, namespace: str, file: str) -> bool:
    """Was something of this document forgotten?"""
    sql = "SELECT 1 FROM withheld WHERE file = ? LIMIT 1"
    return connection.execute(sql, (_key(salt, namespace, file),)).fetchone() is not None


def lift(connection: Connection, salt: bytes, namespace: str, file: str, texts: Iterable[str]) -> None:
    """Within a transaction: a person wants this document after all."""
    connection.execute("DELETE FROM withheld WHERE file = ?", (_key(salt, namespace, file),))
    keys = ((_key(salt, namespace, text),) for text in texts)
    connection.executemany("DELETE FROM withheld WHERE text = ?", keys)


def _key(salt: bytes, namespace: str, text: str) -> int:
    return fingerprint(f"{namespace}\0{text}", salt)
