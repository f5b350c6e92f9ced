"""Markdown that grows: clean text enters, top-level blocks leave; only the last of them are parsed again.

A block is parsed tokens, or a fence with its code. It knows nothing of widths and colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tui.formulas import with_formulas

_AGAIN = 2
"""Blocks at the end that new text may still change: the last, and a list that a paragraph after it may join."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One top-level block that begins at character `start`; `code` is None where it is no fence."""

    start: int
    tokens: tuple[Token, ...]
    code: str | None = None
    language: str = ""


class Document:
    """The text so far and its blocks, which stay the same objects while nothing about them changes."""

    def __init__(self, text: str = "") -> None:
        self.text = ""
        self.blocks: list[Block] = []
        self._links: dict[str, Any] = {}
        self._parser = with_formulas(MarkdownIt("gfm-like", {"html": False}))
        if text:
            self.append(text)

    def append(self, text: str) -> None:
        self.text += text
        kept = max(0, len(self.blocks) - _AGAIN)
        start = self.blocks[kept].start if self.blocks else 0
        self.blocks[kept:] = self._parse(start)

    def finish(self) -> None:
        """Parse everything once more: a link may be explained far below its use."""
        cited = bool(self._links.get("references"))
        # An explanation that was still being written counts as the first one.
        self._links = {}
        fresh = self._parse(0)
        if cited or len(fresh) != len(self.blocks):
            self.blocks = fresh

    @property
    def fences(self) -> tuple[Block, ...]:
        """All code, fences inside of lists and quotations too."""
        found = []
        for block in self.blocks:
            for token in block.tokens:
                if token.type in ("fence", "code_block"):
                    found.append(block if block.code is not None else _fence(block.start, token))
        return tuple(found)

    def _parse(self, start: int) -> list[Block]:
        tail = self.text[start:]
        lines = [0]
        for line in tail.split("\n"):
            lines.append(lines[-1] + len(line) + 1)
        blocks: list[Block] = []
        begun = 0
        tokens = self._parser.parse(tail, self._links)
        for number, token in enumerate(tokens):
            if token.level == 0 and token.nesting <= 0:
                group = tokens[begun : number + 1]
                begun = number + 1
                blocks.append(_block(start + lines[_first_line(group)], group))
        return blocks


def _first_line(tokens: Sequence[Token]) -> int:
    return next((token.map[0] for token in tokens if token.map), 0)


def _block(start: int, tokens: Sequence[Token]) -> Block:
    only = tokens[0]
    if only.type in ("fence", "code_block"):
        return _fence(start, only)
    return Block(start, tuple(tokens))


def _fence(start: int, token: Token) -> Block:
    language = token.info.split()[0] if token.info.strip() else ""
    return Block(start, (token,), token.content.rstrip("\n"), language)
