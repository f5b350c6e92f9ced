"""Forgetting in the whole home: the memory, and whatever else holds words of it or was made from them.

What to forget enters, a receipt as JSON leaves: what was removed where, what a search of the raw files found, and which
conversations, unsent drafts and files say it, which are the person's to delete. It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localai import unsent
from localai.answer_cache import Answers
from localai.conversations import Conversations
from localai.errors import LocalaiError
from localai.kv_cache import KvCache
from localai.memories import Memories
from localai.quotations import Quotations
from memory_store.errors import MemoryStoreError

if TYPE_CHECKING:
    from memory_store.rows import Filter

_log = logging.getLogger(__name__)
_MOST_PIECES = 200_000


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What holds words of memories."""

    memories: Memories
    kept: Conversations
    answers: Answers
    kv_cache: KvCache
    home: Path

    async def forget(
        self, ids: Sequence[str], query: str | None, chosen: Filter | None, *, lasting: bool = True
    ) -> dict[str, Any]:
        """Raises NoSuchMemory or BadRequest before anything is removed.

        `lasting`: watched files are not to say it again.
        """
        receipt, gone = await asyncio.to_thread(self._forget, ids, query, chosen, lasting)
        purged = await self.kv_cache.purge(await asyncio.to_thread(_pieces, gone)) if gone else None
        if purged is not None:
            receipt["elsewhere"]["kv"] = asdict(purged)
            receipt["complete"] = receipt["complete"] and not purged.silent and not purged.problem
        return receipt

    def from_thread(self, ids: Sequence[str], loop: asyncio.AbstractEventLoop) -> None:
        """The same from a thread beside the `loop`, where nobody reads a receipt. Raises MemoryStoreError."""
        try:
            receipt = asyncio.run_coroutine_threadsafe(self.forget(ids, None, None, lasting=False), loop).result()
        except LocalaiError as error:
            raise MemoryStoreError(error.message, error.hint) from error
        if not receipt["complete"]:
            _log.warning("words of %d forgotten memories may still be on disk: `localai memory doctor`", len(ids))

    def _forget(
        self, ids: Sequence[str], query: str | None, chosen: Filter | None, lasting: bool
    ) -> tuple[dict[str, Any], list[str]]:
        cleared: list[int] = []
        receipt, gone = self.memories.forget(
            ids, query, chosen, before=lambda: cleared.append(self.answers.clear()), lasting=lasting
        )
        texts = [memory.text for memory in gone]
        quotations = Quotations(texts)
        # What a document said is not read from it again, but it is the person's to delete it there.
        files = sorted({memory.author.name for memory in gone if memory.author.kind == "file"})
        shown = asdict(receipt) | {
            "complete": receipt.complete,
            "conversations": list(self.kept.quoting(quotations)),
            "drafts": list(unsent.quoting(self.home / unsent.FOLDER, quotations)),
            "elsewhere": {"answers": sum(cleared)},
            "files": [name for name in files if Path(name).is_file()],
        }
        return shown, texts


def _pieces(texts: Sequence[str]) -> list[bytes]:
    """Byte strings that tell a quotation of more than a few words; none where they are so many that all KV may go."""
    from memory_store.residue import byte_pieces

    found = {piece for text in texts for piece in byte_pieces(text.strip().encode("utf-8", "replace"))}
    return sorted(found) if len(found) <= _MOST_PIECES else []
