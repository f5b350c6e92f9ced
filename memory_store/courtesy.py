"""Searches go first: who writes many memories pauses between steps while somebody searches.

Python runs one thread at a time, so that each step of a long write would else be waited for by every step of a search.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, local

# Memories that are written in one step: about a millisecond.
STEP_ROWS = 8
# However much is searched, writing goes on: so long a pause at most, and no other one after less work than that.
LONGEST_PAUSE_SECONDS = 0.01
WORK_SECONDS = 0.002


class Courtesy:
    """Usable from any thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._asking = 0
        self._mine = local()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a search. One within another counts once."""
        if getattr(self._mine, "asking", False):
            yield
            return
        self._mine.asking = True
        with self._changed:
            self._asking += 1
        try:
            yield
        finally:
            self._mine.asking = False
            with self._changed:
                self._asking -= 1
                if not self._asking:
                    self._changed.notify_all()

    def give_way(self) -> None:
        """Until nobody searches, or not for long. Returns at once in a thread that searches, or has just waited."""
        if not self._asking or getattr(self._mine, "asking", False):
            return
        if time.monotonic() >= getattr(self._mine, "works_until", 0.0):
            with self._changed:
                self._changed.wait_for(lambda: not self._asking, LONGEST_PAUSE_SECONDS)
            self._mine.works_until = time.monotonic() + WORK_SECONDS
