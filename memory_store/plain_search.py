"""The two searches that recall stands on, straight over the tables: exact, without any state, slower than an index.

A namespace and words or a vector enter, memory numbers with scores leave, best first. It knows nothing of fusion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memory_store import vector_rows
from memory_store.embed import Vectors
from memory_store.errors import InvalidMemory
from memory_store.rows import Filter
from memory_store.store import Store
from memory_store.vector_rows import EmbedderRow
from memory_store.words import compared, spaced_parts, symbols, unspaced, whole_words

Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

MOST_TERMS = 64
WORD = re.compile(r"[^\W_]+")
_STOP = """
a an and are as at be been but by can could did do does for from had has have how i if in into is it its me my no not of
on or our she so than that the their them then there these they this to was we were what when where which who whom whose
why will with would you your he her him his about any all
"""
STOP_WORDS = frozenset(WORD.findall(_STOP))


class WordSearch(Protocol):
    def search(self, namespace: str, text: str, k: int) -> tuple[Numbers, Scores]:
        """Memories that share words with `text`, by BM25 (higher is better, all above 0), at most `k`."""


class VectorSearch(Protocol):
    def search(self, namespace: str, vector: Vectors, k: int, exact: bool = False) -> tuple[Numbers, Scores]:
        """Memories by cosine to the unit `vector` of shape (width,), at most `k`."""


class PlainWords:
    """FTS5's own BM25 over the terms of the question, any of which may match; symbols are looked for in the texts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def search(self, namespace: str, text: str, k: int) -> tuple[Numbers, Scores]:
        query, scores = match_of(text), dict[int, float]()
        with self._store.reading() as connection:
            if query:
                scores = dict(connection.execute(_MATCHING, (query, namespace, k)))
            for symbol in symbols(text)[:MOST_TERMS]:
                having = connection.execute(_HAVING, (symbol, namespace)).fetchall()
                for (num,) in having:
                    scores[num] = scores.get(num, 0.0) + 1 / len(having)
        best = sorted(scores, key=lambda num: (-scores[num], num))[:k]
        # BM25 of a word that most texts have is negative or tiny in FTS5; a match is never worth nothing.
        least = np.float32(1e-6)
        return np.array(best, np.int64), np.maximum(np.array([scores[num] for num in best], np.float32), least)


_MATCHING = (
    "SELECT f.rowid, -bm25(memory_text) AS score FROM memory_text f JOIN memory m ON m.num = f.rowid "
    "WHERE memory_text MATCH ? AND m.namespace = (SELECT id FROM namespace WHERE name = ?) "
    "ORDER BY score DESC, f.rowid LIMIT ?"
)
_HAVING = "SELECT num FROM memory WHERE instr(text, ?) AND namespace = (SELECT id FROM namespace WHERE name = ?)"


class PlainVectors:
    """Every vector of the namespace against the question's."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def search(self, namespace: str, vector: Vectors, k: int, exact: bool = False) -> tuple[Numbers, Scores]:
        return self.of(self._store.own_embedder(), namespace, vector, k)

    def of(self, own: EmbedderRow, namespace: str, vector: Vectors, k: int) -> tuple[Numbers, Scores]:
        """Among the vectors of this embedder."""
        nums: list[Numbers] = []
        scores: list[Scores] = []
        with self._store.reading() as connection:
            sql = "SELECT num FROM memory WHERE namespace = (SELECT id FROM namespace WHERE name = ?) ORDER BY num"
            inside = np.array([num for (num,) in connection.execute(sql, (namespace,))], np.int64)
            for batch, halves in vector_rows.scan(connection, own):
                here = np.isin(np.array(batch, np.int64), inside, assume_unique=True)
                nums.append(np.array(batch, np.int64)[here])
                scores.append(halves[here].astype(np.float32) @ vector)
        if not nums:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        every, likeness = np.concatenate(nums), np.concatenate(scores)
        best = np.lexsort((every, -likeness))[:k]
        return every[best], likeness[best]


def containing(store: Store, text: str, chosen: Filter | None = None) -> tuple[str, ...]:
    """Ids of those `chosen` that have every word and symbol of `text`, whatever their state: what a query forgets.

    The words themselves: not their stems, which others share. All texts are read, for the full-text index knows no
    words of scripts without spaces.
    """
    wanted, marks = list(dict.fromkeys(whole_words(text))), symbols(text)
    if not wanted and not marks:
        raise InvalidMemory("there is no word in the query", "give the words that all of them contain")
    condition, values = (Filter() if chosen is None else chosen).sql()
    sql = f"SELECT m.id, m.text FROM memory m WHERE {condition} ORDER BY m.num"
    with store.reading() as connection:
        rows = connection.execute(sql, values)
        return tuple(found for found, said in rows if all(mark in said for mark in marks) and _says(said, wanted))


def _says(text: str, wanted: Sequence[str]) -> bool:
    plain = compared(text)
    if not all(word in plain for word in wanted):
        return False
    spaced = [word for word in wanted if not unspaced(word)]
    return not spaced or _words_of(plain).issuperset(spaced)


def _words_of(plain: str) -> set[str]:
    """Latin letters beside unspaced ones are a word of their own."""
    words = set(whole_words(plain))
    return words | {part for word in words if unspaced(word) for part in spaced_parts(word)}


def match_of(text: str) -> str:
    """An FTS5 expression of the words that tell something, each quoted; "" where there is no word at all."""
    terms = list(dict.fromkeys(match.casefold() for match in WORD.findall(text)))
    telling = [term for term in terms if term not in STOP_WORDS] or terms
    return " OR ".join(f'"{term}"' for term in telling[:MOST_TERMS])
