"""Searches conversations by words and by meaning: a question enters, conversations with the best place in each leave.

Vectors of messages are made when they are first searched and kept in memory alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal

from localai.conversations import Conversations

if TYPE_CHECKING:
    from memory_store.embed import StaticEmbedder, Vectors

LEAST_COSINE = 0.35
MOST_EMBEDDED = 20_000
"""Messages that are searched by meaning, the newest ones."""
_SNIPPET = 80
_EMBEDDED_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a conversation was found: a message (None for its title), some words of it, and how well it fits."""

    conversation: str
    message: str | None
    snippet: str
    how: Literal["words", "meaning"]
    score: float


class ConversationSearch:
    """Over one store; safe to use from several threads. Every method blocks."""

    def __init__(self, kept: Conversations) -> None:
        self._kept = kept
        self._lock = Lock()
        self._embedder: StaticEmbedder | None = None
        self._rows: dict[str, Vectors] = {}

    def find(self, query: str, limit: int = 50) -> tuple[Place, ...]:
        """Titles and messages with every word first, then those of a like meaning; one place per conversation."""
        words = query.casefold().split()
        if not words:
            return ()
        texts = self._kept.texts()
        found: dict[str, Place] = {}
        for chat in self._kept.list(limit=10_000):
            if all(word in chat.title.casefold() for word in words):
                found[chat.id] = Place(chat.id, None, chat.title, "words", 2.0)
        for conversation, message, text in texts:
            if conversation not in found and all(word in text.casefold() for word in words):
                found[conversation] = Place(conversation, message, snippet(text, words[0]), "words", 1.0)
        if len(found) < limit:
            for place in self._near(query, texts):
                found.setdefault(place.conversation, place)
        return tuple(found.values())[:limit]

    def _near(self, query: str, texts: tuple[tuple[str, str, str], ...]) -> list[Place]:
        import numpy as np

        with self._lock:
            wanted = self._model().embed([query])[0]
            chosen = [entry for entry in texts if entry[2].strip()][:MOST_EMBEDDED]
            fresh = [entry for entry in chosen if entry[1] not in self._rows]
            rows = self._model().embed([text[:_EMBEDDED_CHARACTERS] for _, _, text in fresh])
            self._rows |= {message: row for (_, message, _), row in zip(fresh, rows, strict=True)}
            self._rows = {message: self._rows[message] for _, message, _ in chosen}
            if not chosen:
                return []
            scores = np.stack([self._rows[message] for _, message, _ in chosen]) @ wanted
        best = [int(n) for n in np.argsort(-scores, kind="stable") if scores[n] >= LEAST_COSINE]
        return [Place(chosen[n][0], chosen[n][1], snippet(chosen[n][2]), "meaning", float(scores[n])) for n in best]

    def _model(self) -> StaticEmbedder:
        from memory_store.embed import StaticEmbedder

        self._embedder = self._embedder or StaticEmbedder()
        return self._embedder


def snippet(text: str, word: str = "") -> str:
    """One line around `word`, which is casefolded; from the beginning where it is not found."""
    line = " ".join(text.split())
    at = max(0, line.casefold().find(word) - _SNIPPET // 3) if word else 0
    cut = line[at : at + _SNIPPET]
    return ("…" if at else "") + cut + ("…" if at + _SNIPPET < len(line) else "")
