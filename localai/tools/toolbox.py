"""All tools of one daemon: which there are, who may be called, and calls.

Names enter, offers and outputs leave. The file `tools.toml` is read anew whenever it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai.errors import LocalaiError, NotFound
from localai.tools.consent import Consents, Decision
from localai.tools.servers import Offer, Output, Server
from localai.tools.spec import Consent, read_servers


@dataclass(frozen=True, slots=True)
class Listed:
    """A declared server and its tools with what holds for each; `problem` says why there are none."""

    server: str
    kind: str
    problem: str
    tools: tuple[tuple[Offer, Consent], ...]


class Toolbox:
    """Of one home. Belongs to one asyncio loop; `close` ends what was started."""

    def __init__(self, home: Path, logs: Path) -> None:
        self._path = home / "tools.toml"
        self._logs = logs
        self._stamp: tuple[int, int] | None = None
        self._servers: dict[str, Server] = {}
        self.consents = Consents(home)

    async def listed(self) -> list[Listed]:
        """Every declared server, asked for its tools. Raises ConfigError where the file is wrong."""
        await self._refresh()
        return list(await asyncio.gather(*(self._one(server) for server in self._servers.values())))

    async def offered(self, names: Sequence[str] | None = None) -> dict[str, Offer]:
        """Tools that are not forbidden, by name; with `names`, these (or all of a server) alone.

        Raises NotFound for a name that there is no tool of.
        """
        found = {offer.name: offer for one in await self.listed() for offer, said in one.tools if said != "never"}
        if names is None:
            return found
        chosen = {name: offer for name, offer in found.items() if name in names or offer.server in names}
        for name in names:
            if all(name not in (offer.name, offer.server) for offer in chosen.values()):
                known = ", ".join(found) or "none; declare servers in tools.toml"
                raise NotFound(f"no tool {name!r} may be used", f"there are: {known}", param="tools")
        return chosen

    async def find(self, name: str) -> Offer:
        """Raises NotFound."""
        for one in await self.listed():
            for offer, _ in one.tools:
                if offer.name == name:
                    return offer
        raise NotFound(f"no tool {name!r}", "`localai tools` lists those there are", param="name")

    def consent(self, offer: Offer) -> Consent:
        return self.consents.of(offer.name, offer.digest, self._servers[offer.server].spec.consent)

    async def say(self, name: str, consent: Consent) -> Offer:
        """Keep the user's word about a tool. Raises NotFound."""
        offer = await self.find(name)
        await asyncio.to_thread(self.consents.say, offer.name, offer.digest, consent)
        return offer

    async def allowed(self, offer: Offer, call: str) -> bool:
        """Whether the user lets `call` of this tool happen; asks where that was wished, and keeps what lasts."""
        said = self.consent(offer)
        if said != "ask":
            return said == "always"
        decision: Decision = await self.consents.ask(call, offer.name)
        if decision in ("always", "never"):
            lasting: Consent = "always" if decision == "always" else "never"
            await asyncio.to_thread(self.consents.say, offer.name, offer.digest, lasting)
        return decision in ("once", "always")

    async def call(self, offer: Offer, arguments: dict[str, Any]) -> Output:
        """Raises UpstreamFailed, or NotFound where the server is declared no more."""
        server = self._servers.get(offer.server)
        if server is None:
            raise NotFound(f"no tool server {offer.server!r}", "declare it in tools.toml")
        return await server.call(offer.own, arguments)

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def _one(self, server: Server) -> Listed:
        kind = "stdio" if server.spec.command else "http"
        try:
            offers = await server.offers()
        except LocalaiError as error:
            return Listed(server.spec.name, kind, error.message, ())
        return Listed(server.spec.name, kind, "", tuple((offer, self.consent(offer)) for offer in offers))

    async def _refresh(self) -> None:
        try:
            state = self._path.stat()
            stamp = (state.st_mtime_ns, state.st_size)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        specs = await asyncio.to_thread(read_servers, self._path)
        kept = {name: server for name, server in self._servers.items() if server.spec in specs}
        gone = [server for name, server in self._servers.items() if name not in kept]
        self._servers = {
            spec.name: kept.get(spec.name) or Server(spec, self._logs / f"tools-{spec.name}.log") for spec in specs
        }
        self._stamp = stamp
        await asyncio.gather(*(server.close() for server in gone))
