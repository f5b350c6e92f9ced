"""A person's wish that an answer ends where it is, and is told what it took: the chat asks, the engine is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Halt:
    """Belongs to one request and to all that are made for it; used on one event loop."""

    __slots__ = ("_cancel", "asked")

    def __init__(self) -> None:
        self.asked = False
        self._cancel: Callable[[], object] | None = None

    def ask(self) -> bool:
        """True where an engine was told, whose figures then come; False where none works on the answer now."""
        self.asked = True
        if self._cancel is None:
            return False
        self._cancel()
        return True

    @asynccontextmanager
    async def reaches(self, cancel: Callable[[], object]) -> AsyncIterator[None]:
        """Meanwhile `cancel` is what ends the work early."""
        self._cancel = cancel
        try:
            yield
        finally:
            self._cancel = None
