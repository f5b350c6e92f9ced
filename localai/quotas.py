"""How much a token's program may ask: requests per minute, and joules per day. A token enters, a refusal may leave."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

from localai.errors import EnergyBudgetSpent, TooBusy, Unauthorized
from localai.tokens import Token

_MINUTE = 60.0
_MOST_WRONG = 20
"""Unknown tokens in a minute; whoever tries more of them is guessing, and waits."""


class Quotas:
    """Of one daemon. `spent` gives the joules of a name's requests since a Unix time, as far as they were recorded."""

    def __init__(self, spent: Callable[[str, float], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._spent = spent
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._wrong: list[float] = []

    async def take(self, token: Token, name: str) -> None:
        """Count one request. Raises TooBusy with the seconds to wait, or EnergyBudgetSpent.

        Requests that run at the same time may together go over the day's joules: these are known when they end.
        """
        if token.requests_per_minute:
            self._take_one(token)
        if token.joules_per_day:
            midnight = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
            spent = await asyncio.to_thread(self._spent, name, midnight)
            if spent >= token.joules_per_day:
                raise EnergyBudgetSpent(
                    f"the token {token.name!r} has spent today's joules ({spent:.0f} of {token.joules_per_day:g})",
                    "wait until midnight, or give it a larger --joules-per-day",
                )

    def _take_one(self, token: Token) -> None:
        """A bucket of a minute's requests that fills evenly."""
        now, most = self._clock(), float(token.requests_per_minute)
        left, seen = self._left.get(token.name, (most, now))
        left = min(most, left + (now - seen) * most / _MINUTE)
        self._left[token.name] = (max(0.0, left - 1), now) if left >= 1 else (left, now)
        if left < 1:
            error = TooBusy(
                f"the token {token.name!r} asks more than {token.requests_per_minute} times a minute",
                "ask less often, or give it a larger --requests-per-minute",
            )
            error.retry_after = math.ceil((1 - left) * _MINUTE / most)
            raise error

    def wrong(self) -> NoReturn:
        """An unknown token was tried. Raises Unauthorized, or TooBusy where that happens too often."""
        now = self._clock()
        self._wrong = [at for at in self._wrong if at > now - _MINUTE][-_MOST_WRONG:]
        self._wrong.append(now)
        if len(self._wrong) > _MOST_WRONG:
            error = TooBusy("too many unknown tokens were tried", "wait a minute")
            error.retry_after = math.ceil(self._wrong[0] + _MINUTE - now)
            raise error
        raise Unauthorized("this token is not known", "`localai token list` shows names; `localai token add` makes one")
