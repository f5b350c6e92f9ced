"""Both ends of an engine child: death, noise, damaged models, and what many requests leave behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backends.contract import Job, Load, Token
from backends.errors import BackendError, EngineBusy, EngineDied, ModelFileError
from backends.frames import encode
from backends.handle import EngineHandle
from tests.engine_runs import GREEDY, STARTER, ask, echo_file, engine, order

WORKER = [sys.executable, "-P", "-m", "backends.worker"]


async def test_a_killed_engine_says_so_at_once(tmp_path: Path) -> None:
    load = order(echo_file(tmp_path, "20"))
    async with engine(load, tmp_path) as handle:
        assert handle.pid is not None
        deaths: list[EngineDied] = []
        handle.on_death = deaths.append
        running = asyncio.gather(*(ask(handle, list(b"x" * 500)) for _ in range(3)), return_exceptions=True)
        # A death is of the kind of step that all are in.
        while len(handle._answering) < 3:
            await asyncio.sleep(0.01)
        os.kill(handle.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            errors = await running
        assert all(isinstance(error, EngineDied) and error.cause == "SIGKILL" for error in errors), errors
        assert [death.step for death in deaths] == ["decode"]
        with pytest.raises(EngineDied):
            await ask(handle, [1])
    async with engine(load, tmp_path) as handle:
        assert (await ask(handle, list(b"again"))).text == "again"


@pytest.mark.parametrize("loaded", [False, True], ids=["before loading", "serving"])
def test_a_child_ends_with_its_daemon(tmp_path: Path, loaded: bool) -> None:
    child = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    if loaded:
        child.stdin.write(encode(order(echo_file(tmp_path))))
        child.stdin.write(encode(Job(id=1, tokens=[65] * 4000, sampling=GREEDY)))
        child.stdin.flush()
        assert child.stdout is not None
        child.stdout.read(100)
    child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.mark.parametrize("loaded", [False, True], ids=["before loading", "serving"])
@pytest.mark.parametrize(
    "noise", [b"\xff" * 64, struct.pack("<I", 3) + b"\x93\x01\x02", encode(Job(id=1, tokens=[1]))[:-9] + b"\xc1" * 9]
)
def test_noise_ends_a_child(tmp_path: Path, loaded: bool, noise: bytes) -> None:
    start = encode(order(echo_file(tmp_path))) if loaded else b""
    with subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(start + noise)
        child.stdin.flush()
        # The input stays open: it is the noise that ends the process.
        assert child.wait(timeout=60) == 1


async def test_noise_from_a_child_ends_it(tmp_path: Path) -> None:
    async with engine(order(echo_file(tmp_path, "20")), tmp_path) as handle:
        running = asyncio.create_task(ask(handle, list(b"x" * 500)))
        while handle.steps < 3:
            await asyncio.sleep(0.01)
        handle.pipe_data_received(1, b"\xff" * 32)
        with pytest.raises(EngineDied, match="noise"):
            await running


async def start_error(path: Path, folder: Path, backend: str = "llama.cpp") -> BackendError:
    load = order(path, backend, n_ctx=64, n_seq=2)
    with pytest.raises(BackendError) as caught:
        async with asyncio.timeout(80):
            await EngineHandle.start(load, log=folder / "engine.log", on_stage=lambda *_: None)
    return caught.value


@pytest.mark.parametrize(
    ("content", "backend"),
    [
        pytest.param(b"", "llama.cpp", id="empty"),
        pytest.param(b"Not a model at all, only text.\n" * 40, "llama.cpp", id="text"),
        pytest.param(STARTER.read_bytes()[:300_000], "llama.cpp", id="cut in the header"),
        pytest.param(STARTER.read_bytes()[:20_000_000], "llama.cpp", id="cut in the tensors"),
        pytest.param(None, "llama.cpp", id="missing"),
        pytest.param(None, "echo", id="missing echo"),
    ],
)
async def test_broken_models_are_named(tmp_path: Path, content: bytes | None, backend: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    for _ in range(2):
        error = await start_error(path, tmp_path, backend)
        assert isinstance(error, ModelFileError), error
        assert str(tmp_path) not in error.message


async def test_fuzzed_headers_end_in_an_error_or_an_answer(tmp_path: Path) -> None:
    random_ = random.Random(1)
    source = STARTER.read_bytes()
    outcomes: list[str] = []
    for number in range(8):
        data = bytearray(source)
        for _ in range(1 + number % 6):
            at = random_.randrange(4, 2000)
            data[at] = random_.randrange(256)
        path = tmp_path / "fuzzed.gguf"
        path.write_bytes(data)
        try:
            async with asyncio.timeout(80), engine(order(path, "llama.cpp", n_ctx=64, n_seq=2), tmp_path) as handle:
                outcomes.append((await ask(handle, [1, 2, 3], max_tokens=1)).end.reason)
        except BackendError as error:
            outcomes.append(error.kind if error.message else "no message")
    assert len(outcomes) == 8
    assert "no message" not in outcomes
    assert len(set(outcomes)) > 1, outcomes


async def test_a_full_queue_is_refused(tmp_path: Path) -> None:
    async with engine(order(echo_file(tmp_path, "50")), tmp_path) as handle:
        jobs = [asyncio.create_task(ask(handle, [65] * 40)) for _ in range(300)]
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION, timeout=90)
        refused = [job for job in done if isinstance(job.exception(), EngineBusy)]
        assert refused
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        while True:
            try:
                answer = await ask(handle, list(b"still here"))
                break
            except EngineBusy:
                await asyncio.sleep(0.1)
        assert answer.text == "still here"


async def storm(handle: EngineHandle, requests: int, prompt: list[int], most: int) -> tuple[int, int]:
    """Run `requests` jobs, 16 at a time, a third of them broken off; counts of completed and cancelled ones."""
    random_ = random.Random(2)
    gate = asyncio.Semaphore(16)
    counts = {"completed": 0, "cancelled": 0}

    async def one(number: int) -> None:
        patience = random_.randrange(0, 6) if number % 3 == 0 else None
        tokens = prompt[: random_.randrange(2, len(prompt))]
        async with gate:
            events = handle.run(Job(id=0, tokens=tokens, sampling=GREEDY, max_tokens=most, n=1 + number % 2))
            got = 0
            async for event in events:
                got += isinstance(event, Token)
                if patience is not None and got >= patience:
                    break
            await events.aclose()
            counts["completed" if patience is None else "cancelled"] += 1

    await asyncio.gather(*(one(number) for number in range(requests)))
    return counts["completed"], counts["cancelled"]


@pytest.mark.parametrize(
    ("requests", "starter"), [pytest.param(200, False, id="echo"), pytest.param(16, True, id="starter")]
)
async def test_a_storm_of_requests_leaves_nothing_behind(tmp_path: Path, requests: int, starter: bool) -> None:
    load: Load = order(STARTER, "llama.cpp", n_ctx=2048) if starter else order(echo_file(tmp_path))
    async with engine(load, tmp_path) as handle:
        child = psutil.Process(handle.pid)
        prompt = list(range(40, 100))
        await storm(handle, requests // 2, prompt, 8)
        level = child.memory_info().rss
        completed, cancelled = await storm(handle, requests, prompt, 8)
        assert completed + cancelled == requests
        assert cancelled > requests // 4
        assert handle.busy == 0
        assert (await ask(handle, prompt, max_tokens=4)).end.reason in ("stop", "length")
        assert child.memory_info().rss - level < 20 * 2**20


async def test_what_a_library_prints_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    # An import hook of the child's own Python prints at start, as a library would.
    (tmp_path / "sitecustomize.py").write_text("import os, atexit\nos.write(2, b'chatter\\n')\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])
    handle = await EngineHandle.start(
        order(echo_file(tmp_path)), log=log, env={"PYTHONPATH": path}, on_stage=lambda *_: None
    )
    assert (await ask(handle, list(b"clean"))).text == "clean"
    await handle.stop()
    assert "chatter" in log.read_text()


async def test_stop_ends_running_jobs(tmp_path: Path) -> None:
    async with engine(order(echo_file(tmp_path, "20")), tmp_path) as handle:
        deaths: list[EngineDied] = []
        handle.on_death = deaths.append
        running = asyncio.create_task(ask(handle, list(b"x" * 500)))
        while handle.steps < 3:
            await asyncio.sleep(0.01)
        await handle.stop()
        with pytest.raises(EngineDied, match="stopped"):
            await running
        assert deaths == []
