"""Fill in the middle: the code before and after a cursor, and files beside it, as the tokens that a family was taught.

Token ids enter, token ids leave. Pure; knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_MISTRAL = ("[PREFIX]", "[SUFFIX]")


@dataclass(frozen=True, slots=True)
class Markers:
    """Ids of a family's markers. `order` psm is prefix, suffix, middle; spm puts the suffix first and ends in prefix.

    Qwen, StarCoder, DeepSeek and CodeLlama are psm with three markers, Codestral is spm with two. `repo` and `file`
    are for neighbouring files; -1 where the family has none.
    """

    order: Literal["psm", "spm"]
    prefix: int
    suffix: int
    middle: int = -1
    repo: int = -1
    file: int = -1


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A file beside the one that is edited, as ids: its name, and its text."""

    name: Sequence[int]
    text: Sequence[int]

    def __len__(self) -> int:
        return 1 + len(self.name) + len(self.text)


def markers(fim: Mapping[str, int], control: Mapping[str, int]) -> Markers | None:
    """What a vocabulary has, by the names of its markers and of its control tokens; None where it cannot do it."""
    if {"prefix", "suffix", "middle"} <= fim.keys():
        repo, file = fim.get("repo", -1), fim.get("file", -1)
        return Markers("psm", fim["prefix"], fim["suffix"], fim["middle"], repo, file)
    if all(name in control for name in _MISTRAL):
        return Markers("spm", control[_MISTRAL[0]], control[_MISTRAL[1]])
    return None


def laid_out(
    known: Markers,
    before: Sequence[int],
    after: Sequence[int],
    neighbours: Sequence[Neighbour],
    *,
    bos: Sequence[int],
    here: Sequence[int],
    room: int,
    typed: Sequence[int] = (),
) -> list[int]:
    """The prompt. Of the neighbours, as many whole ones as fit into `room` tokens go in, the last ones first.

    `here` is the name of the edited file. Neighbours come first and in the order given, so that their KV is found again
    at the next keystroke. `typed` is what is in the cursor's own line already: it stands last, as the beginning of what
    is to be filled in, so that the next keystroke finds the KV of all else, the text behind the cursor too.
    """
    chosen: list[Neighbour] = []
    left = room - len(here) - 2
    for neighbour in reversed(neighbours):
        if len(neighbour) > left:
            break
        left -= len(neighbour)
        chosen.insert(0, neighbour)
    front = list(bos)
    if chosen and known.repo >= 0:
        front += [known.repo, *here]
    mark = [known.file] if known.file >= 0 else []
    for neighbour in chosen:
        front += [*mark, *neighbour.name, *neighbour.text]
    if chosen and mark:
        front += [*mark, *here]
    if known.order == "spm":
        return [*front, known.suffix, *after, known.prefix, *before, *typed]
    return [*front, known.prefix, *before, known.suffix, *after, known.middle, *typed]
