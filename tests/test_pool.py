"""Which engines are loaded, with real echo children: sharing, eviction, expiry, refusal and the breaker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.contract import Adapter, StepRecord
from backends.errors import EngineDied
from backends.handle import EngineHandle
from localai.choice import Choice
from localai.errors import EngineFailed, OutOfResources, Unavailable
from localai.local_model import LocalModel
from localai.orders import Plan
from localai.pool import Pool
from localai.residence import Residence
from localai.slot import Loaded
from tests.engine_runs import ask, echo_file, order

NEED = 100


class House:
    """A pool over echo models of 100 bytes each, and what happened in it."""

    def __init__(self, folder: Path, budget: int, keep_alive: float | Residence) -> None:
        self.folder = folder
        self.budget = budget
        self.started: list[str] = []
        self.deaths: list[EngineDied] = []
        self.fails = 0
        self.pool = Pool(
            plan=self.plan, load=self.load, budget=lambda: self.budget, keep_alive=keep_alive, on_step=lambda _: None
        )

    def plan(self, choice: Choice, free: int) -> Plan:
        if free < NEED:
            raise OutOfResources(f"the model needs {NEED} bytes, {free} are free", "unload others")
        return Plan(choice.n_ctx or (4096 if free >= 2 * NEED else 1024), NEED)

    async def load(
        self,
        choice: Choice,
        plan: Plan,
        on_stage: Callable[[str, float], None],
        on_step: Callable[[StepRecord], None],
    ) -> Loaded:
        self.started.append(choice.model.id)
        if self.fails:
            self.fails -= 1
            raise EngineFailed("died while loading", "see the log")
        path = echo_file(self.folder, "5", f"{choice.model.id}.echo")
        log = self.folder / "engine.log"
        handle = await EngineHandle.start(order(path, n_ctx=plan.n_ctx), log=log, on_stage=on_stage, on_step=on_step)
        return Loaded(handle, self.deaths.append)

    def choice(self, name: str, n_ctx: int = 0) -> Choice:
        path = self.folder / name
        model = LocalModel(
            id=name,
            path=path,
            files=(path,),
            origin="file",
            size_bytes=0,
            digest=None,
            spec=None,
            repo=None,
            header=None,
            problem=None,
            format="echo",
        )
        return Choice(model, "echo", n_ctx, "")

    async def use(self, name: str, n_ctx: int = 0, keep_alive: float | None = None) -> EngineHandle:
        async with self.pool.lease(self.choice(name, n_ctx), keep_alive) as lease:
            async for _ in lease.load():
                pass
            assert (await ask(lease.engine, list(b"hi"))).text == "hi"
            return lease.engine

    @property
    def loaded(self) -> list[str]:
        return sorted(slot.choice.model.id for slot in self.pool.slots)


Build = Callable[..., House]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    made: list[House] = []

    def make(budget: int = 10_000, keep_alive: float = -1) -> House:
        made.append(House(tmp_path, budget, keep_alive))
        return made[-1]

    yield make
    for house in made:
        await house.pool.close(0.0)


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_twenty_at_once_load_one_engine(build: Build) -> None:
    house = build()
    engines = await asyncio.gather(*(house.use("a") for _ in range(20)))
    assert house.started == ["a"]
    assert len(set(map(id, engines))) == 1


async def test_the_longest_idle_goes_first_and_a_busy_one_never(build: Build) -> None:
    house = build(budget=3 * NEED + 50)
    for name in ("a", "b", "c"):
        await house.use(name)
    await house.use("a")
    async with house.pool.lease(house.choice("b")) as lease:
        async for _ in lease.load():
            pass
        await house.use("d", n_ctx=100)
        assert house.loaded == ["a", "b", "d"]
        await house.use("e", n_ctx=100)
        assert house.loaded == ["b", "d", "e"]
        assert (await ask(lease.engine, list(b"still here"))).text == "still here"


async def test_an_idle_engine_goes_rather_than_context_shrinks(build: Build) -> None:
    house = build(budget=2 * NEED + 50)
    await house.use("a")
    engine = await house.use("b")
    assert (engine.info.n_ctx, house.loaded) == (4096, ["b"])


async def test_a_load_waits_for_memory_until_a_busy_engine_is_idle(build: Build) -> None:
    house = build(budget=NEED)
    async with house.pool.lease(house.choice("a")) as lease:
        async for _ in lease.load():
            pass
        waiting = asyncio.create_task(house.use("b"))
        await until(lambda: any(slot.stage.stage == "waiting for memory" for slot in house.pool.slots))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    await waiting
    assert house.loaded == ["b"]


async def test_a_death_frees_memory_for_who_waits(build: Build) -> None:
    house = build(budget=NEED)
    async with house.pool.lease(house.choice("a")) as lease:
        async for _ in lease.load():
            pass
        waiting = asyncio.create_task(house.use("b"))
        await until(lambda: any(slot.stage.stage == "waiting for memory" for slot in house.pool.slots))
        assert lease.engine.pid is not None
        os.kill(lease.engine.pid, signal.SIGKILL)
        await asyncio.wait_for(waiting, 60)
    assert [death.cause for death in house.deaths] == ["SIGKILL"]


async def test_what_can_never_fit_is_refused_and_disturbs_nobody(build: Build) -> None:
    house = build(budget=2 * NEED)
    await house.use("a")
    house.budget = NEED - 1
    with pytest.raises(OutOfResources, match=r"100 bytes, 99 are free"):
        await house.use("b")
    assert house.loaded == ["a"]


async def test_idle_engines_expire(build: Build) -> None:
    house = build(keep_alive=1.0)
    await house.use("forever", keep_alive=-1)
    await house.use("a")
    used = next(slot.last_used for slot in house.pool.slots if slot.choice.model.id == "a")
    await until(lambda: house.loaded == ["forever"])
    assert time.monotonic() - used >= 1.0


async def test_a_shorter_keep_alive_counts_at_once(build: Build) -> None:
    house = build(keep_alive=300.0)
    await house.use("a")
    await asyncio.sleep(0.05)
    await house.use("a", keep_alive=0.0)
    await until(lambda: house.loaded == [])


async def test_only_a_larger_context_reloads(build: Build) -> None:
    house = build()
    first = await house.use("a", 1000)
    assert await house.use("a", 500) is first
    assert await house.use("a") is first
    larger = await house.use("a", 2000)
    assert (larger.info.n_ctx, house.started) == (2000, ["a", "a"])


async def test_a_larger_context_waits_for_the_users_of_the_smaller(build: Build) -> None:
    house = build()
    async with house.pool.lease(house.choice("a", 1000)) as lease:
        waiting = [asyncio.create_task(house.use("a", n_ctx)) for n_ctx in (2000, 3000)]
        async for _ in lease.load():
            pass
        await asyncio.sleep(0.1)
        assert (await ask(lease.engine, list(b"mine"))).text == "mine"
    engines = await asyncio.gather(*waiting)
    assert [engine.info.n_ctx >= asked for engine, asked in zip(engines, (2000, 3000), strict=True)] == [True, True]


@pytest.mark.parametrize("loading", [False, True], ids=["while serving", "while loading"])
async def test_three_deaths_open_the_breaker(build: Build, loading: bool) -> None:
    house = build()
    house.fails = 3 if loading else 0
    for _ in range(3):
        if loading:
            with pytest.raises(EngineFailed):
                await house.use("a")
            continue
        engine = await house.use("a")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: house.loaded == [])
    with pytest.raises(Unavailable) as caught:
        await house.use("a")
    assert caught.value.retry_after is not None
    assert 50 <= caught.value.retry_after <= 60
    assert (await house.use("other")).died is None


async def test_closing_lets_running_requests_end(build: Build) -> None:
    house = build()
    await house.use("a")
    async with house.pool.lease(house.choice("a")) as lease:
        running = asyncio.create_task(ask(lease.engine, list(b"x" * 40)))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(house.pool.close(60.0))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await house.use("a")
        assert (await running).text == "x" * 40
    await closing
    assert house.loaded == []


async def test_closing_ends_loads_and_overlong_requests(build: Build) -> None:
    house = build()
    engine = await house.use("a")
    lease = house.pool.lease(house.choice("a"))
    await lease.__aenter__()
    loading = asyncio.create_task(house.use("b"))
    await until(lambda: "b" in house.started)
    await asyncio.wait_for(house.pool.close(0.1), 60)
    await lease.__aexit__(None, None, None)
    with pytest.raises(Unavailable):
        await loading
    assert engine.died is not None
    assert house.loaded == []


async def test_unloading_by_name(build: Build) -> None:
    house = build()
    engine = await house.use("a")
    assert await house.pool.unload("a")
    assert engine.died is not None
    assert not await house.pool.unload("a")


async def test_adapters_are_charged_and_make_idle_engines_go(build: Build, tmp_path: Path) -> None:
    house = build(budget=2 * NEED + 50)
    files = [tmp_path / name for name in ("x", "y")]
    for file in files:
        file.write_text("1".zfill(NEED // 2 + 10))
    adapted = [replace(house.choice("a"), adapters=(Adapter(str(file)),)) for file in files]
    await house.use("a")
    await house.use("b", n_ctx=100)
    async with house.pool.lease(adapted[0]) as lease:
        (slot,) = house.pool.slots
        assert (slot.choice.model.id, slot.charged) == ("a", NEED + NEED // 2 + 10)
        assert (await ask(lease.engine, list(b"hi"), adapters=adapted[0].adapters)).text == "ij"
        house.budget = slot.charged
        with pytest.raises(OutOfResources, match="the adapters of a need"):
            async with house.pool.lease(adapted[1]):
                pass
    assert slot.users == 0
