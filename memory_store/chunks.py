"""Blocks of a document to chunks of a size that is found well: whole blocks under one heading, long ones cut.

Blocks enter, chunks leave; it knows nothing of formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from memory_store.documents import Block

MOST_CHARACTERS = 1200
ENOUGH = 500
_SENTENCE = re.compile(r"(?<=[.!?。])\s+|\n+")


def chunks(blocks: Sequence[Block]) -> Iterator[Block]:
    """Neighbours of one place are joined up to about 500 characters, and none has more than 1,200."""
    held: list[str] = []
    place, size = "", 0
    for block in blocks:
        for piece in _cut(block.text):
            if held and (block.place != place or size >= ENOUGH or size + len(piece) > MOST_CHARACTERS):
                yield Block("\n\n".join(held), place)
                held, size = [], 0
            place = block.place
            held.append(piece)
            size += len(piece) + 2
    if held:
        yield Block("\n\n".join(held), place)


def _cut(text: str) -> Iterator[str]:
    """At ends of sentences or lines, else at spaces, else anywhere."""
    text = text.strip()
    start = 0
    # By places, not by what is left: a line of many megabytes would be copied once for each piece.
    while len(text) - start > MOST_CHARACTERS:
        least, most = start + ENOUGH, start + MOST_CHARACTERS
        ends = [match.start() for match in _SENTENCE.finditer(text, start, most) if match.start() >= least]
        at = ends[-1] if ends else text.rfind(" ", least, most)
        at = at if at > start else most
        yield text[start:at].strip()
        start = at
        while text[start].isspace():
            start += 1
    if start < len(text):
        yield text[start:]
