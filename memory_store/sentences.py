"""A text to its sentences, in any script that ends them with a mark; items of lists stay whole, and so does code.

A text enters, spans of characters leave, in order; only white space lies between them. It knows nothing of meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_EMPTY = re.compile(r"\n(?:[ \t]*\n)+")
_ITEM = re.compile(r"^[ \t]*(?:[-*+•‣–]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
# Fences, rows of tables, and indented lines that continue no item: where they are broken can matter.
_FENCE = re.compile(r"^[ \t]*(?:```|~~~|\|)", re.MULTILINE)
_SET = re.compile(r"^(?:\t| {2,})\S", re.MULTILINE)
# A full-width mark needs no space behind it; closing quotes and brackets belong to what they close.
_END = re.compile(r"""[.!?…।॥؟۔]+["'”’»)\]]*(?=\s)|[。！？｡]+["'”’»」』）]*""")
_SHORT = frozenset(
    re.findall(
        r"\S+",
        "dr mr mrs ms prof st no nr vs etc ca cf fig art vol pp ed inc ltd jr sr mme mlle sra dott bzw ggf approx",
    )
)
_WORD = re.compile(r"\w+\Z")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text[start:end]`; `item` where it is one of a list."""

    start: int
    end: int
    item: bool = False


def sentences(text: str) -> list[Sentence]:
    """Without code, tables and the like: a text with these is one piece."""
    blocks = _blocks(text)
    if any(_SET.search(text, *block) and not _ITEM.search(text, *block) for block in blocks) or _FENCE.search(text):
        return [Sentence(0, len(text))]
    return [each for block in blocks for each in (_of_list if _ITEM.search(text, *block) else _of_prose)(text, *block)]


def _blocks(text: str) -> list[tuple[int, int]]:
    """Between empty lines; each begins at a line of its own, where a pattern for a line's beginning fits."""
    ends = [(match.start(), match.end()) for match in _EMPTY.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    blocks = zip(starts, [*(start for start, _ in ends), len(text)], strict=True)
    return [(start, end) for start, end in blocks if text[start:end].strip()]


def _of_list(text: str, start: int, end: int) -> Iterator[Sentence]:
    begins = [match.start() for match in _ITEM.finditer(text, start, end)]
    yield from _of_prose(text, start, begins[0])
    for first, last in zip(begins, [*begins[1:], end], strict=True):
        yield from _trimmed(text, first, last, item=True)


def _of_prose(text: str, start: int, end: int) -> Iterator[Sentence]:
    for match in _END.finditer(text, start, end):
        if not _goes_on(text, start, match.start(), match.end()):
            yield from _trimmed(text, start, match.end())
            start = match.end()
    yield from _trimmed(text, start, end)


def _goes_on(text: str, start: int, mark: int, after: int) -> bool:
    """A full stop behind an initial or a usual abbreviation, or before a small letter, ends nothing."""
    if text[mark] != ".":
        return False
    word = _WORD.search(text, max(start, mark - 12), mark)
    short = word is not None and (word[0].casefold() in _SHORT or (len(word[0]) == 1 and word[0].isalpha()))
    follows = text[after : after + 3].lstrip()[:1]
    return short or follows.islower()


def _trimmed(text: str, start: int, end: int, *, item: bool = False) -> Iterator[Sentence]:
    part = text[start:end]
    if part.strip():
        yield Sentence(start + len(part) - len(part.lstrip()), start + len(part.rstrip()), item)
