"""Connections to MCP servers, by the official SDK: a spec enters, its tools and what they answer leave.

A server is started or reached when it is first needed, and again after it went away. What it says about itself and
what its tools answer is untrusted text. Knows nothing of consent or models.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localai.errors import BadRequest, UpstreamFailed
from localai.messages import Tool
from localai.tools.spec import ServerSpec

if TYPE_CHECKING:
    from mcp import Client

_MOST_TOOLS = 64
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_MOST_DESCRIPTION = 1000
MOST_RESULT = 16_000
"""Characters of a tool's answer that a model is shown."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool of a server. `name` is how models call it, `own` the server's name for it; `digest` of what it says."""

    server: str
    own: str
    tool: Tool
    digest: str

    @property
    def name(self) -> str:
        return self.tool.name


@dataclass(frozen=True, slots=True)
class Output:
    """What a tool answered, as text; `failed` where the tool itself says so."""

    text: str
    failed: bool


class Server:
    """One declared server. `log` takes what a child writes to its standard error."""

    def __init__(self, spec: ServerSpec, log: Path) -> None:
        self.spec = spec
        self.problem = ""
        self._log = log
        self._keeper: asyncio.Task[None] | None = None
        self._client: asyncio.Future[Client] | None = None
        self._end = asyncio.Event()
        self._offers: tuple[Offer, ...] | None = None

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.done() and not self._client.exception()

    async def offers(self) -> tuple[Offer, ...]:
        """Its tools, asked for once per connection. Raises UpstreamFailed, or BadRequest where the SDK is missing."""
        client = await self._connected()
        if self._offers is None:
            async with self._trouble("told no tools"):
                found = (await asyncio.wait_for(client.list_tools(), self.spec.timeout)).tools
            self._offers = tuple(_offer(self.spec.name, tool) for tool in found[:_MOST_TOOLS])
        return self._offers

    async def call(self, own: str, arguments: dict[str, Any]) -> Output:
        """Raises UpstreamFailed where no answer comes."""
        client = await self._connected()
        async with self._trouble(f"did not answer {own!r}"):
            result: Any = await asyncio.wait_for(client.call_tool(own, arguments), self.spec.timeout)
        texts = [part.text if part.type == "text" else f"({part.type})" for part in result.content]
        text = "\n".join(texts) or json.dumps(result.structured_content or {}, ensure_ascii=False)
        if len(text) > MOST_RESULT:
            text = f"{text[:MOST_RESULT]}\n(cut: {len(text)} characters in all)"
        return Output(text, bool(result.is_error))

    async def close(self) -> None:
        keeper, self._keeper, self._client, self._offers = self._keeper, None, None, None
        if keeper is not None:
            self._end.set()
            await asyncio.wait({keeper}, timeout=10.0)
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _connected(self) -> Client:
        if self._client is None:
            self._client = asyncio.get_running_loop().create_future()
            self._end = asyncio.Event()
            # Its scopes must be left by the task that entered them, whoever asks first.
            self._keeper = asyncio.create_task(self._keep(self._client, self._end))
            self._keeper.add_done_callback(partial(self._ended, ready=self._client))
        client = self._client
        try:
            return await asyncio.wait_for(asyncio.shield(client), self.spec.timeout)
        except TimeoutError as error:
            await self.close()
            raise self._failed("did not start in time") from error

    async def _keep(self, ready: asyncio.Future[Client], end: asyncio.Event) -> None:
        async with self._opened() as client:
            ready.set_result(client)
            await end.wait()

    def _ended(self, keeper: asyncio.Task[None], ready: asyncio.Future[Client]) -> None:
        """Whatever a foreign program or its SDK raises concerns this server alone."""
        error = None if keeper.cancelled() else keeper.exception()
        if self._client is ready:
            self._client = self._keeper = self._offers = None
        if ready.done():
            return
        if isinstance(error, ModuleNotFoundError):
            hint = "pip install 'localai-daemon[mcp]'"
            ready.set_exception(BadRequest("tools need the package mcp, which is not installed", hint))
        else:
            ready.set_exception(self._failed(f"cannot be reached ({_innermost(error)})" if error else "was closed"))
        # Whoever waited may have gone.
        ready.exception()

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Client]:
        from mcp import Client, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        spec = self.spec
        if spec.command:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            command = StdioServerParameters(
                command=spec.command[0], args=list(spec.command[1:]), env=dict(spec.env), cwd=spec.cwd or None
            )
            with self._log.open("a", encoding="utf-8") as log:
                async with Client(stdio_client(command, errlog=log), read_timeout_seconds=spec.timeout) as client:
                    yield client
            return
        import httpx2

        token = os.environ.get(spec.token_env, "") if spec.token_env else ""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        async with (
            httpx2.AsyncClient(headers=headers, timeout=spec.timeout) as line,
            Client(streamable_http_client(spec.url, http_client=line), read_timeout_seconds=spec.timeout) as client,
        ):
            yield client

    @asynccontextmanager
    async def _trouble(self, what: str) -> AsyncGenerator[None]:
        from mcp.shared.exceptions import MCPError

        try:
            yield
        except (MCPError, OSError, TimeoutError, RuntimeError, ValueError) as error:
            await self.close()
            raise self._failed(f"{what} ({_innermost(error)})") from error
        self.problem = ""

    def _failed(self, what: str) -> UpstreamFailed:
        self.problem = what
        hint = f"check [{self.spec.name}] in tools.toml, and logs/{self._log.name}"
        return UpstreamFailed(f"the tool server {self.spec.name!r} {what}", hint)


def _offer(server: str, tool: Any) -> Offer:
    description = _printable(" ".join((tool.description or "").split()))[:_MOST_DESCRIPTION]
    schema = tool.input_schema if isinstance(tool.input_schema, dict) else {}
    said = json.dumps([tool.name, tool.description, schema], sort_keys=True)
    name = f"{server}__{_NOT_IN_NAMES.sub('_', tool.name)}"[:64]
    return Offer(server, tool.name, Tool(name, description, schema), hashlib.sha256(said.encode()).hexdigest())


def _printable(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(character for character in text if character.isprintable())


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _printable(str(error))[:200] or type(error).__name__
