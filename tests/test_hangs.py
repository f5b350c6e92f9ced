"""An engine that stands still with answers to give is ended; a full disk ends nothing."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from localai.audit import Audit
from localai.config import Config
from localai.errors import OutOfResources
from localai.frozen_notes import Shown
from localai.memories import Memories
from localai.recollection import _keep
from tests.daemon_fixture import Daemon, running, wait_for


def _engine(daemon: Daemon) -> psutil.Process:
    assert daemon.process is not None
    (child,) = (each for each in psutil.Process(daemon.process.pid).children() if "backends.worker" in each.cmdline())
    return child


def test_an_engine_that_stands_still_is_replaced() -> None:
    with running(LOCALAI_ENGINE_TIMEOUT="5") as daemon:
        model = daemon.echo("still.txt", 0)
        assert daemon.chat("before", unix=True, model=model).status == 200
        stopped = _engine(daemon)
        os.kill(stopped.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(daemon.chat, text, unix=True, model=model) for text in ("one", "two")]
            assert [each.result().status for each in waiting] == [502, 502]
        assert "SIGKILL" in waiting[0].result().error["message"]
        wait_for(lambda: not stopped.is_running())
        assert daemon.chat("after", unix=True, model=model).status == 200


def test_an_idle_engine_is_left_alone() -> None:
    with running(LOCALAI_ENGINE_TIMEOUT="1") as daemon:
        model = daemon.echo("slow.txt", 0)
        assert daemon.chat("before", unix=True, model=model).status == 200
        first = _engine(daemon)
        # While this is computed, the limit passes several times.
        assert daemon.chat("word " * 500, max_tokens=60).status == 200
        assert first.is_running()


def test_without_room_what_was_recalled_is_only_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memories = Memories(Config(home=tmp_path))
    many = [Shown(f"{number}" * 200, 0.5, "active") for number in range(200)]
    assert memories.frozen.of([b"a"]) == {}
    db = memories.frozen._opened()
    db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OutOfResources):
        memories.frozen.put(b"a", many)
    _keep(b"a", many, memories)
    assert "not kept" in caplog.text
    assert memories.frozen.of([b"a"]) == {}
    memories.close()


def test_an_audit_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    for _ in range(3):
        audit.note("owner", "POST", "/localai/memory", 200)
    audit.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Traceback" not in capfd.readouterr().err
