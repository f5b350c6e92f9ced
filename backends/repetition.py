"""Whether an answer goes round in circles: its tokens enter, what it repeats leaves. Pure.

Only an exact cycle that fills everything for a long time counts, so that lists, tables and code with like rows pass.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 64
"""Tokens of the longest cycle that is looked for."""
LEAST = 512
"""Tokens that must be nothing but the cycle; it comes at least eight times then."""
EVERY = 32
"""Tokens between two looks."""


def cycle(tokens: Sequence[int]) -> int | None:
    """The length of the cycle that the last `LEAST` of `tokens` consist of; None where there is none."""
    if len(tokens) < LEAST:
        return None
    tail = list(tokens[-LEAST:])
    return next((size for size in range(1, LONGEST + 1) if tail[size:] == tail[:-size]), None)


def words(size: int, count: int) -> str:
    """What an answer says that was ended for it, after `count` tokens."""
    times = LEAST // size
    same = "the same token" if size == 1 else f"the same {size} tokens"
    return f"ended after {count} tokens: it repeated {same} at least {times} times; repetition_stop=off lets it go on"
