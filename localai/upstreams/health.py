"""Whether an upstream can be used now: what requests met, and a check in the background for as long as it is in use.

Nothing is asked of a machine that nobody uses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from localai.breaker import Breaker
from localai.errors import LocalaiError
from localai.upstreams.spec import UpstreamSpec, key_of

if TYPE_CHECKING:
    from localai.upstreams.client import UpstreamClient

_log = logging.getLogger(__name__)

CHECK_S = 15.0
"""Seconds between checks, and the longest that one may take is a third of it."""
IN_USE_S = 120.0
"""Seconds after the last request that an upstream counts as in use."""
FRESH_S = 300.0
"""Seconds that a list of its models is taken for the newest."""


class Line:
    """One upstream as this daemon sees it. `users` are running requests; times are monotonic seconds.

    `found` are its models with the contexts that it serves, as far as it told.
    """

    def __init__(self, spec: UpstreamSpec, *, check_s: float = CHECK_S, in_use_s: float = IN_USE_S) -> None:
        self.spec = spec
        self._check_s = check_s
        self._in_use_s = in_use_s
        self.state: Literal["unknown", "up", "down"] = "unknown"
        self.problem = ""
        self.latency_ms: float | None = None
        self.users = 0
        self.requests = self.failures = self.fallbacks = 0
        self.found: dict[str, int | None] = {}
        self._asked_at = -FRESH_S
        self._last_used = time.monotonic()
        self._breaker = Breaker()
        self._client: UpstreamClient | None = None
        self._watch: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def client(self) -> UpstreamClient:
        if self._client is None:
            # Brings an HTTP library, which a daemon that stays alone does not need.
            from localai.upstreams.client import UpstreamClient

            self._client = UpstreamClient(self.spec)
        return self._client

    @property
    def resting_s(self) -> float:
        """Seconds until it may be asked again, after failing repeatedly; 0 where it may be asked."""
        return self._breaker.left(time.monotonic())

    def begin(self) -> None:
        """A request starts; the background check runs from here until some time after the last one."""
        self.users += 1
        self.requests += 1
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._check_while_used())

    def end(self) -> None:
        self.users -= 1
        self._last_used = time.monotonic()

    def note_failure(self, error: LocalaiError) -> None:
        """A request failed; the check looks at once whether the machine is there at all."""
        self.failures += 1
        self.problem = error.message
        self._breaker.note_death(time.monotonic())
        self._wake.set()

    def note_answer(self) -> None:
        self.state, self.problem = "up", ""

    @property
    def used_s_ago(self) -> float:
        return 0.0 if self.users else time.monotonic() - self._last_used

    async def check(self) -> None:
        """Ask for its list of models, the one request that every such server has and that costs nothing."""
        from localai.upstreams.client import listed

        begun = self._asked_at = time.monotonic()
        try:
            key = await asyncio.to_thread(key_of, self.spec)
            self.found = await listed(self.client, key, CHECK_S / 3)
        except LocalaiError as error:
            if self.state != "down":
                _log.warning("upstream %s is down: %s", self.spec.name, error.message)
            self.state, self.problem, self.latency_ms = "down", error.message, None
            return
        if self.state == "down":
            _log.info("upstream %s is up again", self.spec.name)
        self.state, self.latency_ms = "up", round(1000 * (time.monotonic() - begun), 1)

    async def names(self) -> dict[str, int | None]:
        """Its models: those of its entry, else what it tells, asked again once that is old."""
        if self.spec.models:
            return {name: self.found.get(name) for name in self.spec.models}
        if time.monotonic() - self._asked_at >= FRESH_S:
            await self.check()
        return self.found

    async def _check_while_used(self) -> None:
        while self.used_s_ago < self._in_use_s:
            self._wake.clear()
            # Not wait_for: where the event is set in the same moment, that one swallows being cancelled.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_s):
                    await self._wake.wait()
            await self.check()
        self.state = "unknown"
        await self._drop_client()

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        """End the check and all connections."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        await self._drop_client()
