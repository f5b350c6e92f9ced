"""Text to index terms: words and the parts of identifiers, stemmed; pairs of characters where words are not spaced;
emoji and other symbols, each by itself.

A text enters, its terms leave in order. The stems are those of SQLite's porter tokenizer: both lexical indexes agree.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from threading import Lock

CACHED_WORDS = 400_000
LONGEST_WORD = 64
_IDENTIFIERS = re.compile(r"\w+")
# Flags are pairs. Tones of skin, joiners and variants are no symbols of their own; frames of tables say nothing.
_SYMBOLS = (
    "[\U0001f1e6-\U0001f1ff]{2}|"
    "[\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00b6\u00d7\u00f7\u20a0-\u20cf\u2100-\u24ff\u25a0-\u2bff\u3012\u3013\u3020"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_SYMBOL = re.compile(_SYMBOLS)
_WORDS_AND_SYMBOLS = re.compile(rf"\w+|{_SYMBOLS}")
_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
# Scripts that are written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+"
)


class Words:
    """Usable from any thread; remembers the terms of words that it has seen."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._terms: dict[str, tuple[str, ...]] = {}
        self._porter = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._porter.execute("CREATE VIRTUAL TABLE word USING fts5(text, tokenize='porter unicode61')")
        self._porter.execute("CREATE VIRTUAL TABLE term USING fts5vocab(word, instance)")

    def terms(self, texts: Iterable[str]) -> list[list[str]]:
        """One list of terms for each text; together is faster than one by one."""
        texts = list(texts)
        found = [tokens(text) for text in texts]
        known = self._terms
        fresh = {word for words in found for word in words if word not in known}
        if fresh:
            known = self._learn(fresh, {word for words in found for word in words})
        terms = [[term for word in words for term in known[word]] for words in found]
        return [here or _marks(text) for here, text in zip(terms, texts, strict=True)]

    def _learn(self, fresh: set[str], all_words: set[str]) -> dict[str, tuple[str, ...]]:
        pieces = {word: _pieces(word) for word in fresh}
        with self._lock:
            plain = sorted({piece for parts in pieces.values() for piece in parts if piece.isascii()})
            stems = self._stems(plain)
            learnt = {word: tuple(stems.get(piece, piece) for piece in parts) for word, parts in pieces.items()}
            if len(self._terms) + len(learnt) > CACHED_WORDS:
                # A new table: another thread may still be reading the old one.
                self._terms = {word: self._terms[word] for word in all_words if word in self._terms}
            self._terms.update(learnt)
            return self._terms if all_words <= self._terms.keys() else self._terms | learnt

    def _stems(self, plain: list[str]) -> dict[str, str]:
        self._porter.execute("BEGIN")
        self._porter.executemany("INSERT INTO word (rowid, text) VALUES (?, ?)", enumerate(plain))
        stems = {plain[row]: term for row, term in self._porter.execute("SELECT doc, term FROM term")}
        self._porter.execute("ROLLBACK")
        return stems


def tokens(text: str) -> list[str]:
    """The words and symbols as they stand there."""
    return (_IDENTIFIERS if text.isascii() else _WORDS_AND_SYMBOLS).findall(text)


def symbols(text: str) -> list[str]:
    """The different emoji and other symbols."""
    return [] if text.isascii() else list(dict.fromkeys(_SYMBOL.findall(text)))


def _marks(text: str) -> list[str]:
    """Of a text without any term: `:-)` is found by its characters."""
    return [char for char in text if char.isprintable() and char != " " and unicodedata.category(char)[0] != "M"]


def _pieces(identifier: str) -> tuple[str, ...]:
    """The whole word and, where it has several, its parts: parseHTMLPage, parse, html, page."""
    word = identifier[: LONGEST_WORD * 4]
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
        if _UNSPACED.search(word):
            return tuple(_characters(word))
    parts = [part.lower() for part in _PARTS.findall(word)]
    whole = word.strip("_").lower()[:LONGEST_WORD]
    if len(parts) < 2:
        return (whole,) if whole else ()
    return (whole, *(part[:LONGEST_WORD] for part in parts))


def _characters(word: str) -> Iterable[str]:
    last = 0
    for match in _UNSPACED.finditer(word):
        yield from _pieces(word[last : match.start()])
        run, last = match.group(), match.end()
        yield from run if len(run) == 1 else ()
        yield from (run[at : at + 2] for at in range(len(run) - 1))
    yield from _pieces(word[last:])
