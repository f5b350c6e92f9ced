"""How much one rendering of an untrusted template may do: CPU time, and characters and items it makes.

Every operation that can make a value bigger reports here, before it happens where its result can exceed its inputs.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_RANGE = 100_000
SPARE = 8 << 20
BRIEF_SECONDS, BRIEF_SPARE = 0.01, 64 << 10
"""For a rendering that an event loop waits for: about so long it may stand still, once per template."""
_MAX_ITEMS = 250_000
_CHECK_EVERY = 64
_ATOMS = (int, float, Undefined, type(None))


class Overrun(SecurityError):
    """The template asked for more time or memory than a conversation needs."""


class Budget:
    """The allowance of one rendering.

    `given` is the number of characters in its variables. One value may hold four times that plus `spare` characters,
    all values ever made 32 times that plus eight times `spare`. `seconds` is CPU time of this thread.
    """

    __slots__ = ("_left", "_until", "_until_check", "largest", "most_items")

    def __init__(self, given: int, seconds: float, spare: int = SPARE) -> None:
        self.largest = 4 * given + spare
        self.most_items = given + min(spare, _MAX_ITEMS)
        self._left = 32 * given + 8 * spare
        self._until = time.thread_time() + seconds
        self._until_check = _CHECK_EVERY

    def tick(self, size: int = 0) -> None:
        """Account for one step of the program that makes `size` characters or items."""
        self._until_check -= 1
        if self._until_check <= 0:
            self._until_check = _CHECK_EVERY
            if time.thread_time() > self._until:
                raise Overrun("it runs for too long")
        self._left -= size
        if size > self.largest or self._left < 0:
            raise Overrun("it makes too much text")

    def require(self, size: int) -> None:
        """Refuse a value of `size` characters or items before it is made."""
        if size > self.largest:
            raise Overrun("it makes too much text")

    def weigh(self, *values: Any, printed: bool = True) -> int:
        """Characters and items of `values` written out in full; shared parts count every time.

        Raises Overrun above the largest size (`[x, x]` in a loop doubles it each time around), and TypeError, if they
        are to be `printed`, for an object that has no business in text.
        """
        characters, items, stack = 0, 0, list(values)
        while stack:
            value = stack.pop()
            items += 1
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, dict):
                stack.extend(value.keys())
                stack.extend(value.values())
            elif isinstance(value, list | tuple):
                stack.extend(value)
            elif printed and not isinstance(value, _ATOMS):
                raise TypeError(f"it uses a {type(value).__name__} as text")
            if characters > self.largest or items + len(stack) > self.most_items:
                raise Overrun("it makes too much text")
        self._until_check -= items // 16
        self.tick()
        return characters + items


_current: ContextVar[Budget] = ContextVar("budget")


def current() -> Budget:
    """The budget of the rendering that runs in this context; LookupError outside of one."""
    return _current.get()


@contextmanager
def spending(budget: Budget) -> Generator[Budget]:
    """Make `budget` the current one."""
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)
