"""What the files of one namespace say: a new text enters, the number of the memory that says it already leaves.

It is read from the store at the first question and holds the texts from then on. Not for two threads at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from memory_store import rows
from memory_store.duplicates import Seen
from memory_store.store import Store


class FileTexts:
    """Of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._seen: Seen | None = None

    def covering(self, text: str) -> int | None:
        """What was erased elsewhere meanwhile covers nothing."""
        seen = self._texts()
        while (num := seen.covering(text)) is not None:
            with self._store.reading() as connection:
                if rows.many(connection, [num]):
                    return num
            seen.drop(num)
        return None

    def add(self, num: int, text: str) -> None:
        self._texts().add(num, text)

    def drop(self, nums: Iterable[int]) -> None:
        if self._seen is not None:
            for num in nums:
                self._seen.drop(num)

    def _texts(self) -> Seen:
        if self._seen is None:
            self._seen = Seen()
            sql = (
                "SELECT m.num, m.text FROM memory m JOIN source s ON s.id = m.source "
                "JOIN namespace n ON n.id = m.namespace WHERE s.kind = 'file' AND n.name = ? ORDER BY m.num"
            )
            with self._store.reading() as connection:
                for num, text in connection.execute(sql, (self._namespace,)):
                    self._seen.add(num, text)
        return self._seen
