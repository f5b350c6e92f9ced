"""Which block to give up first. Pure: what is known of a block enters, what keeping it is worth leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Facts:
    """A block of `size` bytes that took `cost_s` to compute; `uses` counts its computing; times are Unix seconds."""

    size: int
    cost_s: float
    uses: int
    created: float
    used: float


class Policy(Protocol):
    """`worth` orders blocks: the least goes first. A block goes before the one that it continues, whatever it says."""

    def worth(self, block: Facts, now: float, span: float) -> float:
        """`span` is how many seconds ago the longest unused block of the tier was used."""


class LeastRecent:
    """What was not used for the longest time goes first."""

    def worth(self, block: Facts, now: float, span: float) -> float:
        return block.used


class LeastFrequent:
    """What was used least often goes first; among equals, the longest unused."""

    def worth(self, block: Facts, now: float, span: float) -> float:
        return block.uses - 1 / (1 + block.used)


class ExpectedSaving:
    """Seconds that keeping a block is expected to save, per second and byte.

    The chance of another use falls with the time since the last one, and grows with the root of the uses so far: a
    loop that has ended looks busy for long if they count in full. Ages far below what the tier reaches back are alike.
    """

    def worth(self, block: Facts, now: float, span: float) -> float:
        age = max(0.0, now - block.used) + span / 16 + 1.0
        return block.cost_s * math.sqrt(block.uses) / age / max(1, block.size)
