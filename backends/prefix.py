"""What a KV cache holds, and the longest prefix that two of them have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens in a KV cache, and `root`: what else went into its bytes. Under another root nothing is shared."""

    tokens: list[int]
    root: Hashable = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def common(self, other: Held) -> int:
        """Length of the longest prefix in common."""
        return common_prefix(self.tokens, other.tokens) if self.root == other.root else 0


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix; by bisection over slices, which compare at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
