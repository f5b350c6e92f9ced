"""How many joules may be spent: a limit for the day, and one for an answer. Figures enter, a refusal may leave."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

from localai.energy.figures import Energy
from localai.energy.taps import Rates
from localai.errors import BadRequest, EnergyBudgetSpent


class DayBudget:
    """`limit` joules from midnight to midnight, local time; 0 for no limit. Unknown figures count nothing."""

    def __init__(self, limit: float, spent_since: Callable[[float], float]) -> None:
        """`spent_since` gives the joules of a Unix time and later, as far as they were recorded."""
        self._limit = limit
        self._spent_since = spent_since
        self._day: date | None = None
        self._spent = 0.0

    def check(self) -> None:
        """Raises EnergyBudgetSpent where nothing is left of today's joules."""
        if self._limit and self.spent >= self._limit:
            raise EnergyBudgetSpent(
                f"today's energy budget is spent ({self._spent:.0f} of {self._limit:.0f} J)",
                "wait until midnight, or raise max_joules_per_day",
            )

    @property
    def spent(self) -> float:
        """Joules of today's answers."""
        today = datetime.now().date()
        if self._limit and today != self._day:
            self._day = today
            self._spent = self._spent_since(datetime.combine(today, datetime.min.time()).timestamp())
        return self._spent

    def add(self, energy: Energy) -> None:
        """Count an answer."""
        self._spent = self.spent + (energy.joules or 0.0)


def check_limit(limit: float | None, rates: Rates, basis: str) -> None:
    """Raises BadRequest where `limit` joules would not do for one token, as far as is known."""
    if limit is not None and rates.decode is not None and limit < rates.decode:
        raise BadRequest(
            f"max_joules {limit:g} is less than one token takes here (about {rates.decode:.2g} J, {basis})",
            f"allow at least {rates.decode:.2g}",
            param="max_joules",
        )
