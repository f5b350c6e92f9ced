"""Forgetting in the whole home: the memory, and whatever else holds words of it or was made from them.

What to forget enters, a receipt as JSON leaves: what was removed where, what a search of the raw files found, and which
conversations quote it, which are the person's to delete. It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from localai.answer_cache import Answers
from localai.conversations import Conversations
from localai.memories import Memories

if TYPE_CHECKING:
    from memory_store.rows import Filter

_LEAST_QUOTE = 12
"""Characters of a forgotten text below which a conversation that has them quotes nothing."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What holds words of memories."""

    memories: Memories
    kept: Conversations
    answers: Answers

    async def forget(self, ids: Sequence[str], query: str | None, chosen: Filter | None) -> dict[str, Any]:
        """Raises NoSuchMemory or BadRequest before anything is removed."""
        return await asyncio.to_thread(self._forget, ids, query, chosen)

    def _forget(self, ids: Sequence[str], query: str | None, chosen: Filter | None) -> dict[str, Any]:
        cleared: list[int] = []
        receipt, gone = self.memories.forget(ids, query, chosen, before=lambda: cleared.append(self.answers.clear()))
        quotes = self.kept.quoting([text for text in gone if len(text) >= _LEAST_QUOTE])
        elsewhere = {"answers": sum(cleared)}
        shown = {**asdict(receipt), "complete": receipt.complete, "conversations": list(quotes)}
        return shown | {"elsewhere": elsewhere}
