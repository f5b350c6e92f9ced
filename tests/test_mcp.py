"""The daemon's tools through the official client, over standard input and output and over HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from tests.daemon_fixture import Daemon, answers, free_port, wait_for

TOOLS = {"memory_add", "memory_search", "memory_forget", "models", "ask", "energy"}


@asynccontextmanager
async def over_stdio(daemon: Daemon, *arguments: str, **environment: str) -> AsyncIterator[Client]:
    command = ["-P", "-m", "localai", "mcp", *arguments]
    wanted = StdioServerParameters(command=sys.executable, args=command, env={**daemon.env, **environment}, cwd="/")
    async with Client(wanted, read_timeout_seconds=170) as client:
        yield client


@contextmanager
def serving(daemon: Daemon) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "localai", "mcp", "--http", str(port)]
    process = subprocess.Popen(command, env=daemon.env, cwd="/", stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port), 120)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(60)


@asynccontextmanager
async def over_http(url: str, token: str = "") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=170) as line,
        Client(streamable_http_client(url, http_client=line), read_timeout_seconds=170) as client,
    ):
        yield client


def value(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    found: dict[str, Any] = result.structured_content or {}
    return found


def complaint(result: CallToolResult) -> str:
    assert result.is_error
    (said,) = result.content
    assert isinstance(said, TextContent)
    return said.text


async def test_an_agent_remembers_finds_and_forgets(daemon: Daemon) -> None:
    async with over_stdio(daemon, "--as", "scribe", "--namespace", "lab") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        added = value(await client.call_tool("memory_add", {"text": "The axolotl tank is cleaned on Tuesdays."}))
        (hit,) = value(await client.call_tool("memory_search", {"query": "when is the axolotl tank cleaned"}))["hits"]
        assert (hit["id"], hit["source"], hit["namespace"]) == (added["id"], "agent:scribe", "lab")
        assert 0 < hit["trust"] < 1
        gone = value(await client.call_tool("memory_forget", {"ids": [added["id"]]}))
        assert gone["ids"] == [added["id"]]
        assert value(await client.call_tool("memory_search", {"query": "axolotl"}))["hits"] == []
        assert "axolotl-1" in complaint(await client.call_tool("memory_forget", {"ids": ["axolotl-1"]}))


async def test_an_agent_asks_a_model(daemon: Daemon) -> None:
    async with over_stdio(daemon) as client:
        names = value(await client.call_tool("models", {}))["models"]
        asked = {"prompt": "What is the capital of France?", "model": names[0], "max_tokens": 12}
        found = value(await client.call_tool("ask", asked))
        assert found["text"]
        assert (found["quality"], found["joules"] > 0) == ("modelled", True)
        spent = value(await client.call_tool("energy", {"by": "model"}))
        assert (spent["by"], spent["quality"]) == ("model", "modelled")
        assert "no model named" in complaint(await client.call_tool("ask", {"prompt": "x", "model": "absent"}))


async def test_a_token_limits_an_agent_of_this_user(daemon: Daemon) -> None:
    made = daemon.client.post("/localai/tokens", {"name": "mcp-reader", "scopes": ["memory-read"]})
    async with over_stdio(daemon, LOCALAI_TOKEN=made["secret"]) as client:
        assert value(await client.call_tool("memory_search", {"query": "anything"}))["hits"] is not None
        assert "lacks the scope memory-write" in complaint(
            await client.call_tool("memory_add", {"text": "A new fact."})
        )


async def test_over_http_a_call_may_what_its_token_may(daemon: Daemon) -> None:
    made = daemon.client.post("/localai/tokens", {"name": "mcp-web", "scopes": ["memory-read", "memory-write"]})
    with serving(daemon) as url:
        async with over_http(url, made["secret"]) as client:
            added = value(await client.call_tool("memory_add", {"text": "The kiwi house opens at nine."}))
            hits = value(await client.call_tool("memory_search", {"query": "when does the kiwi house open"}))["hits"]
            assert [(hit["id"], hit["source"]) for hit in hits][:1] == [(added["id"], "agent:mcp-web")]
            assert "lacks the scope infer" in complaint(await client.call_tool("models", {}))
        for token, words in (("", "send a token"), ("la-wrong", "not known")):
            async with over_http(url, token) as client:
                assert words in complaint(await client.call_tool("memory_search", {"query": "kiwi"}))
                assert words in complaint(await client.call_tool("models", {}))


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}], ids=["page", "host"]
)
def test_web_pages_reach_no_tool(daemon: Daemon, headers: dict[str, str]) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accepted = {"Accept": "application/json, text/event-stream"}
    with serving(daemon) as url:
        assert httpx2.post(url, json=call, headers={**accepted, **headers}, timeout=60).status_code in (403, 421)
