"""RPC workers of llama.cpp: who is asked, and what is said where none can be used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from localai import config
from localai.catalog import Catalog
from localai.choice import Choice
from localai.engine_build import engine_build
from localai.errors import ConfigError
from localai.library import Library
from localai.rpc_workers import RpcWorkers
from tests.daemon_fixture import free_port, running


def choice(tmp_path: Path, backend: str = "llama.cpp") -> Choice:
    return Choice(Library(tmp_path, Catalog.load(tmp_path)).resolve("starter"), backend, 0, "")


async def test_workers_are_used_together_or_not_at_all(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    up, off = f"127.0.0.1:{server.sockets[0].getsockname()[1]}", f"127.0.0.1:{free_port()}"
    wanted = choice(tmp_path)
    async with server:
        there = await RpcWorkers([up]).usable(wanted)
        assert (there.endpoints, up in there.note) == ((up,), True)
        half = await RpcWorkers([up, off]).usable(wanted)
        assert (half.endpoints, f"no RPC worker answers at {off} (" in half.note) == ((), True)
        assert await RpcWorkers([up]).usable(choice(tmp_path, "onnx")) == await RpcWorkers([]).usable(wanted)
        tired = RpcWorkers([up])
        tired.rest()
        resting = await tired.usable(wanted)
        assert (resting.endpoints, "an engine died" in resting.note) == ((), True)


@pytest.mark.parametrize("worker", ["host", ":1", "host:0", "host:70000", "host:x"])
def test_a_worker_has_host_and_port(tmp_path: Path, worker: str) -> None:
    with pytest.raises(ConfigError, match="rpc"):
        config.load(environment={"LOCALAI_HOME": str(tmp_path), "LOCALAI_RPC": worker})


def test_a_worker_that_is_away_leaves_the_model_here() -> None:
    with running(LOCALAI_RPC=f"127.0.0.1:{free_port()}", LOCALAI_BACKEND="llama.cpp") as daemon:
        answer = daemon.chat("Hello").json
        assert "on this machine alone: no RPC worker answers" in answer["reason"]
        assert "rpc" not in daemon.engines()[0]["settings"]


@pytest.mark.skipif(engine_build().rpc, reason="this llama.cpp was built with RPC")
async def test_a_build_without_rpc_names_the_one_to_make() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with running(LOCALAI_RPC=f"127.0.0.1:{port}", LOCALAI_BACKEND="llama.cpp") as daemon:
        answer = await asyncio.to_thread(daemon.chat, "Hello")
    server.close()
    assert answer.status == 400
    assert 'CMAKE_ARGS="-DGGML_RPC=ON"' in answer.error["hint"]
