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
# Vowel signs of scripts that write them beside the letter: `\w` has the letters alone, and would cut words there.
_SIGNS = (
    "\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
    "\u102b-\u103e\u1056-\u1059\u17b4-\u17d3"
)
# Accents, and the points that Arabic and Hebrew are mostly written without. Not the stroke that makes = into another.
_ACCENTS = re.compile(
    "[\u0300-\u0337\u0339-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\ufe20-\ufe2f]+"
)
# Flags are pairs. Tones of skin, joiners and variants are no symbols of their own; frames of tables say nothing.
_SYMBOLS = (
    "[\U0001f1e6-\U0001f1ff]{2}|"
    "[\u00a2-\u00a9\u00ac\u00ae-\u00b1\u00b6\u00d7\u00f7\u20a0-\u20cf\u2100-\u24ff\u25a0-\u2bff\u3012\u3013\u3020"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_SYMBOL = re.compile(_SYMBOLS)
_IDENTIFIERS_WITH_SIGNS = re.compile(rf"[\w{_SIGNS}]+")
_WORDS_AND_SYMBOLS = re.compile(rf"[\w{_SIGNS}]+|{_SYMBOLS}")
_PARTS = re.compile(rf"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|(?:[^\W\d_a-zA-Z]|[{_SIGNS}])+")
# Scripts that are written without spaces between words, or with endings that only some of them are written with.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0002fa1f]+"
)
# Characters that are often a word each.
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")


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
    return _IDENTIFIERS.findall(text) if text.isascii() else _WORDS_AND_SYMBOLS.findall(unaccented(text))


def unaccented(text: str) -> str:
    """The same however its letters were put together, and without what many leave out when they type."""
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text.replace("ß", "ss"))))


def unspaced(word: str) -> bool:
    """Is it of a script of which words are looked for within longer runs?"""
    return _UNSPACED.search(word) is not None


def spaced_parts(word: str) -> list[str]:
    """What stands between the unspaced runs of a word."""
    return [part for part in _UNSPACED.split(word) if part]


def whole_words(text: str) -> list[str]:
    """As a person compares them: without case, accents and underscores, and neither stemmed nor cut up."""
    return [part for word in _IDENTIFIERS_WITH_SIGNS.findall(compared(text)) for part in word.split("_") if part]


def compared(text: str) -> str:
    """A text in which `whole_words` can be looked for."""
    return text.casefold() if text.isascii() else unaccented(unicodedata.normalize("NFKC", text)).casefold()


def symbols(text: str) -> list[str]:
    """The different emoji and other symbols."""
    return [] if text.isascii() else list(dict.fromkeys(_SYMBOL.findall(text)))


def _marks(text: str) -> list[str]:
    """Of a text without any term: `:-)` is found by its characters."""
    return [char for char in text if char.isprintable() and char != " " and unicodedata.category(char)[0] != "M"]


def _pieces(identifier: str) -> tuple[str, ...]:
    """The whole word and, where it has several, its parts: parseHTMLPage, parse, html, page."""
    word = identifier
    if not word.isascii():
        word = unaccented(unicodedata.normalize("NFKC", word))
        if unspaced(word):
            return tuple(_characters(word))
    word = word[: LONGEST_WORD * 4]
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
        yield from run if len(run) == 1 else _IDEOGRAPH.findall(run)
        yield from (run[at : at + 2] for at in range(len(run) - 1))
    yield from _pieces(word[last:])
