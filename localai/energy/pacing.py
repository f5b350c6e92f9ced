"""A cap on the engines' watts: what they would draw enters, how long they rest after each step leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from localai.energy.draw import Draws, typical
from localai.energy.taps import EngineKey

_LONGEST = 50.0
"""An engine rests at most so many times as long as it works: a cap that wants more would look like a hang."""


class Paced(Protocol):
    """An engine that can be told to rest."""

    def pace(self, rest: float) -> None:
        """Rest after each step for `rest` times its duration."""


class Pacer:
    """Holds the engines, all together, to `cap` watts beyond idle; 0 is no cap.

    `working` gives the engines that have jobs with their threads, `engines` all that are loaded.
    """

    def __init__(
        self,
        cap: float,
        draws: Draws,
        working: Callable[[], Iterable[tuple[EngineKey, int]]],
        engines: Callable[[], Iterable[Paced]],
        watts: float = 0.0,
    ) -> None:
        """`watts` of one busy core, for engines of which nothing is known yet; 0 takes typical ones."""
        self._cap = cap
        self._draws = draws
        self._working = working
        self._engines = engines
        self._watts = watts

    def rest(self) -> float:
        """Seconds of rest per second of work that keep what works now within the cap."""
        full = 0.0
        for (_, backend, mode), threads in self._working():
            draw = self._draws.of(backend, mode, threads) or typical(max(1, threads), self._watts)
            full += draw.most
        return min(_LONGEST, max(0.0, full / self._cap - 1.0)) if self._cap else 0.0

    @property
    def said(self) -> str:
        """For an answer: how it is held back now, '' where it is not."""
        rest = self.rest()
        return f"power_cap {self._cap:g} W: engines rest {rest:.3g} times as long as they work" if rest else ""

    def adjust(self) -> None:
        """Tell the engines, as jobs begin and end."""
        if self._cap:
            rest = self.rest()
            for engine in self._engines():
                engine.pace(rest)
