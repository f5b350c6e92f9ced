"""Which block to give up first. Pure: what is known of a block enters, what keeping it is worth leaves."""

from __future__ import annotations

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

    def worth(self, block: Facts, now: float) -> float: ...


class LeastRecent:
    """What was not used for the longest time goes first."""

    def worth(self, block: Facts, now: float) -> float:
        return block.used


class LeastFrequent:
    """What was used least often goes first; among equals, the longest unused."""

    def worth(self, block: Facts, now: float) -> float:
        return block.uses - 1 / (1 + block.used)


class ExpectedSaving:
    """Seconds that keeping a block is expected to save per second and byte."""

    _REST_S = 60.0

    def worth(self, block: Facts, now: float) -> float:
        age = max(0.0, now - block.used) + self._REST_S
        return block.cost_s * block.uses / age / max(1, block.size)
