"""Which RPC workers of llama.cpp a load may use: those of the settings that answer now and took no engine with them.

A choice enters; addresses leave, or none with the reason. Nothing is asked of a worker but a TCP connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from localai.choice import Choice

REST_S = 60.0
"""Seconds that workers are left alone after an engine died with them."""
_CONNECT_S = 2.0
_KNOWN_S = 5.0


@dataclass(frozen=True, slots=True)
class Workers:
    """Addresses to compute on, () for this machine alone; `note` says it in words, '' where none were wanted."""

    endpoints: tuple[str, ...] = ()
    note: str = ""


class RpcWorkers:
    """`configured` are the workers of all models that name none of their own."""

    def __init__(self, configured: Sequence[str]) -> None:
        self._configured = tuple(configured)
        self._rest_until = 0.0
        self._known: dict[tuple[str, str, str], tuple[float, Workers]] = {}

    def usable_now(self, choice: Choice) -> Workers:
        """`usable` for a thread that plans; what was found holds for some seconds, as plans are made in a row."""
        key, now = choice.key, time.monotonic()
        at, found = self._known.get(key, (-_KNOWN_S, Workers()))
        if now - at >= _KNOWN_S or now < self._rest_until:
            found = asyncio.run(self.usable(choice))
            self._known[key] = now, found
        return found

    async def usable(self, choice: Choice) -> Workers:
        """All workers that `choice` is to run on, or none of them where one cannot be used now."""
        wanted = (choice.model.spec.rpc if choice.model.spec else ()) or self._configured
        if choice.backend != "llama.cpp" or not wanted:
            return Workers()
        left = self._rest_until - time.monotonic()
        if left > 0:
            return Workers(note=f"on this machine alone for {left:.0f} s more: an engine died with its RPC workers")
        problems = await asyncio.gather(*(problem_of(endpoint) for endpoint in wanted))
        gone = [f"{endpoint} ({why})" for endpoint, why in zip(wanted, problems, strict=True) if why]
        if gone:
            return Workers(note=f"on this machine alone: no RPC worker answers at {', '.join(gone)}")
        return Workers(wanted, f"with RPC workers {', '.join(wanted)}")

    def rest(self) -> None:
        """An engine died while it used workers: the next loads do without for a while."""
        self._rest_until = time.monotonic() + REST_S


async def problem_of(endpoint: str) -> str:
    """Why no connection can be made; '' where one can."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"silent for {_CONNECT_S:g} s"
    except OSError as error:
        return error.strerror or "no connection"
    writer.close()
    return ""
