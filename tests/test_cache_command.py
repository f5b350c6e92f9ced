"""The KV cache through the daemon: restored after a restart, shown by commands and metrics, gone when cleared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from localai.config import load
from localai.kv_cache import KvCache
from localai.metrics import Metrics
from tests.daemon_fixture import Daemon, running, wait_for

LONG = "Tell me about the sea, the wind and the boats of the fishermen. " * 8


def cache(daemon: Daemon, command: str) -> Any:
    done = daemon.cli("cache", command, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_conversation_outlives_the_daemon() -> None:
    with running() as daemon:
        assert cache(daemon, "stats")["blocks"] == 0
        first = daemon.chat(LONG).json
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert daemon.end() == 0
        # Neither engine nor daemon runs now.
        assert cache(daemon, "stats")["tokens"] >= first["usage"]["prompt_tokens"]
        assert cache(daemon, "verify") == {"blocks": 1, "bad": 0, "missing": 0, "orphans": 0, "orphan_bytes": 0}
        daemon.start()
        again = daemon.chat(LONG).json
        assert again["choices"] == first["choices"]
        tokens = again["usage"]["prompt_tokens"] - 1
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == tokens
        assert again["timings"]["cached"] == {"ssd": tokens}
        assert again["timings"]["restore_ms"] > 0
        wait_for(lambda: metric(daemon, 'localai_kv_hit_tokens_total{tier="ssd"}') == tokens)
        assert metric(daemon, 'localai_kv_blocks{tier="ssd"}') == 1
        assert metric(daemon, 'localai_kv_restores_total{tier="ssd"}') == 1
        assert cache(daemon, "clear")["blocks"] == 1
        assert cache(daemon, "stats")["bytes"] == 0
        assert daemon.chat(LONG).json["choices"] == first["choices"]


def metric(daemon: Daemon, name: str) -> float | None:
    lines = daemon.ask("GET", "/metrics").content.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), None)


@pytest.mark.parametrize("setting", ["LOCALAI_KV_SSD", "LOCALAI_KV_RAM"])
def test_a_tier_can_be_switched_off(setting: str) -> None:
    with running(**{setting: "0"}) as daemon:
        answers = [daemon.chat("Hello there!", model=daemon.echo("m.echo", 0), unix=True) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert daemon.end() == 0
        assert (cache(daemon, "stats")["blocks"] > 0) == (setting == "LOCALAI_KV_RAM")


def test_a_smaller_cap_holds_from_the_start() -> None:
    with running() as daemon:
        for number in range(6):
            daemon.chat(f"{number} " * 300, model=daemon.echo("m.echo", 0), unix=True)
        daemon.end()
        before = cache(daemon, "stats")["bytes"]
        daemon.env["LOCALAI_KV_SSD"] = str(before // 2)
        daemon.start()
        assert 0 < cache(daemon, "stats")["bytes"] <= before // 2


async def test_a_cache_that_cannot_be_used_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load(environment={"LOCALAI_HOME": str(tmp_path)})
    cache = KvCache(config, Metrics().kv, list)
    config.kv_folder.parent.mkdir(parents=True)
    config.kv_folder.write_text("no folder", encoding="utf-8")
    for _ in range(3):
        await cache._make_room(True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    config.kv_folder.unlink()
    await cache._make_room(True)
    config.kv_folder.rename(tmp_path / "away")
    config.kv_folder.write_text("no folder", encoding="utf-8")
    await cache._make_room(True)
    assert len(caplog.records) == 2, "a problem that came back is new"
