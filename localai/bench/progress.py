"""The progress of a run on stderr: what is done, how many answers, how long it still takes."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A bar where a person watches, a line per stage elsewhere."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self._console = console
        self._total, self._done, self._begun = total, 0, time.monotonic()
        self._before = 0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            # Answers of one category take about as long as each other, but categories do not.
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=300.0,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """What is done now."""
        self._bar.update(self._task, description=text)
        if not self._console.is_terminal:
            line = f"{text} ({self._done} of {self._total}{self._left()})"
            self._console.print(line, highlight=False, soft_wrap=True)

    def resume(self, count: int) -> None:
        """So many answers were there before: they took no time now."""
        self._before = count
        self._done += count
        self._bar.update(self._task, completed=count)

    def advance(self, count: int) -> None:
        """So many answers more."""
        self._done += count
        self._bar.advance(self._task, count)

    def _left(self) -> str:
        made = self._done - self._before
        if made <= 0:
            return ""
        spent = time.monotonic() - self._begun
        return f", about {spent / made * (self._total - self._done):.0f} s left"
