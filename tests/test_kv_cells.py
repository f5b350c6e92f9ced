"""The KV cache in a real engine child: restored tokens are the computed ones, whatever happened in between."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from backends.errors import EngineDied
from backends.handle import EngineHandle
from backends.kv import upkeep
from backends.kv_frames import KvGrant
from tests.daemon_fixture import wait_for
from tests.engine_runs import Answer, ask, echo_file, engine, order


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 20_000), k=length)


def grant(folder: Path, ram: int = 64 << 20, ssd: int = 1 << 30) -> KvGrant:
    return KvGrant(ram=ram, ssd=ssd, folder=str(folder / "kv") if ssd else "")


def logprobs(answer: Answer) -> list[float | None]:
    return [token.logprob.logprob for token in answer.tokens[0] if token.logprob is not None]


def cached(answer: Answer) -> dict[str, int]:
    return {str(tier): count for tier, count in answer.end.usage.cached_by_tier.items()}


@pytest.mark.parametrize(
    ("backend", "mode", "kv_type"),
    [
        ("llama.cpp", "", "f16"),
        ("llama.cpp", "", "q8_0"),
        ("onnx", "", "f16"),
        ("onnx", "kv8", "f16"),
        ("mlx", "host", "f16"),
    ],
)
async def test_restored_after_a_restart_bit_for_bit(
    backend: str, mode: str, kv_type: str, shallow: Path, tmp_path: Path
) -> None:
    # One thread: a change of threads between two runs would change the order of additions.
    more = {"kv": grant(tmp_path), "kv_type": kv_type, "mode": mode, "cache": str(tmp_path / "graphs")}
    load = order(shallow, backend, n_ctx=512, threads=1, **more)
    tokens, asked = prompt(1, 300), {"ignore_eos": True, "logprobs": 2, "max_tokens": 6}
    async with engine(load, tmp_path) as handle:
        # All but the last token first, as the cache will have them: the same steps give the same bits.
        await ask(handle, tokens[:-1], max_tokens=0)
        computed = await ask(handle, tokens, **asked)
    async with engine(load, tmp_path) as handle:
        restored = await ask(handle, tokens, **asked)
    assert cached(computed) == {"live": 299}
    assert cached(restored) == {"ssd": 299}
    assert restored.ids() == computed.ids()
    assert logprobs(restored) == logprobs(computed)
    assert restored.end.usage.restore_s > 0


async def test_a_mode_never_reads_what_another_wrote(shallow: Path, tmp_path: Path) -> None:
    tokens = prompt(5, 300)
    for mode in ("", "kv8", "exact"):
        load = order(shallow, "onnx", n_ctx=512, mode=mode, kv=grant(tmp_path), cache=str(tmp_path / "graphs"))
        async with engine(load, tmp_path) as handle:
            assert cached(await ask(handle, tokens, max_tokens=1)) == {}


@pytest.mark.parametrize(
    ("backend", "mode"), [("llama.cpp", ""), ("onnx", ""), ("onnx", "kv8"), ("mlx", "host")], ids=str
)
async def test_a_prompt_may_come_from_several_tiers(backend: str, mode: str, shallow: Path, tmp_path: Path) -> None:
    more = {"kv": grant(tmp_path), "mode": mode, "cache": str(tmp_path / "graphs")}
    # numpy's threads wait for each other by spinning, which two of them on a busy machine do for ever.
    load = order(shallow, backend, n_ctx=1024, threads=1 if backend == "mlx" else 2, **more)
    tokens = prompt(2, 560)
    async with engine(load, tmp_path) as handle:
        await ask(handle, tokens, max_tokens=1)
    async with engine(load, tmp_path) as handle:
        beginning = await ask(handle, tokens[:300], max_tokens=1)
        whole = await ask(handle, tokens, max_tokens=1)
        other = asyncio.create_task(ask(handle, prompt(3, 16), max_tokens=60, ignore_eos=True))
        await ask(handle, prompt(4, 16), max_tokens=1)
        again = await ask(handle, tokens, max_tokens=1)
        await other
    assert cached(beginning) == {"ssd": 299}
    # The second block is in RAM since a part of it was used.
    assert cached(whole) == {"live": 256, "ram": 256, "ssd": 47}
    assert cached(again) == {"ram": 559}


@pytest.mark.parametrize("ssd", [0, 1 << 30], ids=["ram", "ram and ssd"])
async def test_many_conversations_on_few_cells(ssd: int, shallow: Path, tmp_path: Path) -> None:
    """Of 7 conversations the cells hold three; each comes back without being computed again."""
    load = order(shallow, "llama.cpp", n_ctx=256, threads=2, kv=grant(tmp_path, ssd=ssd))
    chats = {seed: prompt(seed, 70) for seed in range(7)}
    async with engine(load, tmp_path) as handle:
        for tokens in chats.values():
            tokens += (await ask(handle, tokens, max_tokens=8, ignore_eos=True)).ids()
        for seed in random.Random(0).choices(range(7), k=10):
            tokens = chats[seed] + [1234]
            answer = await ask(handle, tokens, max_tokens=1, ignore_eos=True)
            assert sum(cached(answer).values()) >= 70, seed
            chats[seed] = tokens + answer.ids()


async def test_echo_children_share_a_small_cap(tmp_path: Path) -> None:
    """The echo engine says each prompt again, so one wrong byte out of the cache would be seen."""
    cap = 40_000
    paths = [echo_file(tmp_path, name=name) for name in ("a", "b")]
    async with (
        engine(order(paths[0], kv=grant(tmp_path, ram=4000, ssd=cap)), tmp_path) as one,
        engine(order(paths[1], kv=grant(tmp_path, ram=4000, ssd=cap)), tmp_path) as two,
    ):
        for turn in range(24):
            tokens = random.Random(turn % 17).choices(range(65, 91), k=300 + 40 * (turn % 17))
            answers = await asyncio.gather(*(ask(child, tokens) for child in (one, two)))
            assert [a.text.encode() for a in answers] == [bytes(tokens)] * 2
            assert await asyncio.to_thread(at_rest, tmp_path / "kv") <= cap
            if turn % 10 == 9:
                upkeep.trim(tmp_path / "kv", cap // 2)


def at_rest(folder: Path) -> int:
    """Bytes of all blocks in one moment: files come and go behind the answers."""

    def sizes() -> dict[Path, int] | None:
        try:
            return {path: path.stat().st_size for path in folder.glob("*/*.kv")}
        except FileNotFoundError:
            return None

    def still() -> list[int]:
        first = sizes()
        return [sum(first.values())] if first is not None and first == sizes() else []

    found: int = wait_for(still)[0]
    return found


async def test_no_kill_leaves_a_wrong_token_or_an_orphan(tmp_path: Path) -> None:
    """A short churn of kills; `tests/soak/kv_kills.py` is the long one."""
    draw = random.Random(5)
    path = echo_file(tmp_path, "0.2")
    # On a busy machine a child may be killed before it has kept anything.
    for number in range(60):
        if number >= 12 and (tmp_path / "kv").exists() and upkeep.totals(tmp_path / "kv")["bytes"]:
            break
        handle = await EngineHandle.start(
            order(path, kv=grant(tmp_path, ram=20_000, ssd=200_000)), log=tmp_path / "log", on_stage=lambda *_: None
        )
        killer = asyncio.get_running_loop().call_later(draw.uniform(0.0, 0.15), kill, handle)
        try:
            while True:
                tokens = random.Random(draw.randrange(6)).choices(range(65, 91), k=draw.randint(200, 1200))
                assert (await ask(handle, tokens)).text.encode() == bytes(tokens)
        except EngineDied:
            killer.cancel()
            await handle.stop()
    upkeep.sweep(tmp_path / "kv", read=True)
    assert upkeep.sweep(tmp_path / "kv", read=True).orphans == 0
    sizes = sum(file.stat().st_size for file in (tmp_path / "kv").glob("*/*.kv"))
    assert sizes == upkeep.totals(tmp_path / "kv")["bytes"] > 0


def kill(handle: EngineHandle) -> None:
    if handle.pid is not None:
        os.kill(handle.pid, signal.SIGKILL)
