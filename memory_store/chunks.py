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
    while len(text) > MOST_CHARACTERS:
        ends = [match.start() for match in _SENTENCE.finditer(text, 0, MOST_CHARACTERS) if match.start() >= ENOUGH]
        at = ends[-1] if ends else text.rfind(" ", ENOUGH, MOST_CHARACTERS)
        at = at if at > 0 else MOST_CHARACTERS
        yield text[:at].strip()
        text = text[at:].strip()
    if text:
        yield text
