"""What a benchmark asks: one Item per question, and a Suite of them with its digest. Pure data; scores nothing."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

Kind = Literal["text", "chat", "choice"]
Scorer = Literal["exact", "number", "last_number", "json", "code", "choice", "instructions"]


class Instruction(msgspec.Struct, frozen=True):
    """One checkable demand on an answer: its published name and arguments."""

    name: str
    arguments: dict[str, Any] = {}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `prompt` is continued by the model (`text`), sent as a message (`chat`), or by `choices`.

    `answers` are what counts as right, in any of these forms; of `choices` the one numbered `gold` is right. `tests`
    is a program that runs behind prompt and answer and fails unless the code is right; `entry` its function's name.
    """

    id: str
    category: str
    kind: Kind
    scorer: Scorer
    prompt: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    gold: int = 0
    tests: str = ""
    demands: tuple[Instruction, ...] = ()
    max_tokens: int = 16
    stop: tuple[str, ...] = ("\n",)


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """Items in the order of asking; `source` tells people where they come from, `notes` what was left out."""

    name: str
    source: str
    items: tuple[Item, ...]
    seed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over every item; two runs with the same one asked the same."""
        return hashlib.sha256(msgspec.json.encode(self.items)).hexdigest()

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.category for item in self.items))

    def rounds(self, count: int) -> list[tuple[Item, ...]]:
        """The items in `count` parts, each with its share of every category, so that parts can be interleaved."""
        parts: list[list[Item]] = [[] for _ in range(count)]
        for category in self.categories:
            for place, item in enumerate(item for item in self.items if item.category == category):
                parts[place % count].append(item)
        return [tuple(part) for part in parts if part]
