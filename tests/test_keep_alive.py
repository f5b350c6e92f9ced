"""How long models stay: what pauses teach, what is remembered of them, and what a pool does with it (echo children)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from localai.keep_alive import Pause, stay
from localai.residence import Ahead, Kept, Residence
from tests.daemon_fixture import running
from tests.test_pool import NEED, House, until

HOUR, DAY = 3600.0, 86_400.0


def every(seconds: float, count: int, begin: float = 10 * HOUR) -> list[Pause]:
    return [Pause(begin + number * seconds, seconds) for number in range(count)]


@pytest.mark.parametrize(
    ("pauses", "load_s", "least", "most"),
    [
        ([], 10.0, 300, 300),
        (every(60, 30), 10.0, 60, 310),
        ([*every(60, 30), Pause(11 * HOUR, 20 * HOUR)], 10.0, 60, 310),
        (every(2 * DAY, 8), 10.0, 30, 60),
        (every(900, 30), 20.0, 30, 30),
        (every(900, 30), 40.0, 900, 1000),
        (every(900, 30), 0.0, 300, 300),
    ],
    ids=[
        "nothing known",
        "a chat",
        "a night between chats",
        "rarely",
        "a timer is met by loading ahead",
        "or by staying",
        "free loads",
    ],
)
def test_how_long_a_model_stays(pauses: list[Pause], load_s: float, least: float, most: float) -> None:
    now = pauses[-1].begin + pauses[-1].seconds if pauses else 0.0
    assert least <= stay(pauses, now, load_s).seconds <= most


def test_a_use_that_can_be_foreseen_finds_the_model_loaded() -> None:
    found = stay(every(1500, 30), 10 * HOUR + 30 * 1500, 40.0)
    assert found.warm_from is not None
    assert found.seconds <= found.warm_from <= 1500 - 40 < 1500 <= found.warm_to < 1800
    assert found.warm_likely > 0.5
    assert stay(every(1500, 30), 0.0, 2.0, rent=1.0).warm_from is None, "memory is worth more than the wait"


def test_the_hour_tells_pauses_apart() -> None:
    days = range(12)
    mornings = [Pause(day * DAY + 9 * HOUR + n * 600, 600.0) for day in days for n in range(5)]
    evenings = [Pause(day * DAY + 20 * HOUR, 13 * HOUR) for day in days]
    pauses = sorted(mornings + evenings, key=lambda pause: pause.begin)
    morning, evening = (stay(pauses, 13 * DAY + hour * HOUR, 20.0).seconds for hour in (9.5, 20.0))
    assert morning >= 600 > evening


def test_pauses_are_remembered_and_damage_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = [1000.0]
    path = tmp_path / "pauses.json"

    def opened() -> Residence:
        return Residence(path, now=lambda: clock[0])

    residence = opened()
    for _ in range(9):
        residence.begun("m")
        clock[0] += 4
        residence.ended("m")
        clock[0] += 2 * DAY
    residence.begun("m")
    residence.ended("m")
    said = residence.kept("m", 10.0, 0.5)
    residence.close()
    assert said.seconds < 300
    assert "learned from 9 pauses" in said.why
    again = opened()
    assert again.kept("m", 10.0, 0.5) == said
    assert "usual" in again.kept("another", 10.0, 0.5).why
    clock[0] -= 5 * DAY
    again.begun("m")
    assert again.kept("m", 10.0, 0.5).why.count("9 pauses") == 1, "a clock that was set back teaches nothing"
    path.write_text("{", encoding="utf-8")
    fresh = opened()
    assert "pauses.json is damaged" in caplog.text
    assert fresh.kept("m", 10.0, 0.5).seconds == 300
    again.close()
    fresh.close()


def test_thrift_shortens_the_stay(tmp_path: Path) -> None:
    clock = [1000.0]
    stays = []
    for thrifty in (False, True):
        residence = Residence(tmp_path / f"{thrifty}.json", thrifty=lambda now=thrifty: now, now=lambda: clock[0])
        for seconds in (400.0, 900.0) * 12:
            residence.ended("m")
            clock[0] += seconds
            residence.begun("m")
        stays.append([residence.kept("m", 20.0, share).seconds for share in (0.1, 0.5)])
        residence.close()
    (small, large), (_, frugal) = stays
    assert small >= large >= frugal
    assert small > frugal


# -- in the pool


class Decided(Residence):
    """Lets models go at once, and loads them again half a second later."""

    def kept(self, model: str, load_s: float, share: float) -> Kept:
        now = time.time()
        return Kept(0.0, "decided", Ahead(now + 0.5, now + 100, "it comes back"))


Build = Callable[..., House]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    made: list[tuple[House, Residence]] = []

    def make(budget: int = 10_000, forbids: str = "") -> House:
        residence = Decided(tmp_path / "pauses.json", forbids=lambda: forbids)
        made.append((House(tmp_path, budget, residence), residence))
        return made[-1][0]

    yield make
    for house, residence in made:
        await house.pool.close(0.0)
        residence.close()


async def test_a_model_is_loaded_ahead_and_used(build: Build) -> None:
    house = build()
    await house.use("a")
    assert [(choice.model.id, ahead.why) for choice, ahead in house.pool.ahead] == [("a", "it comes back")]
    await until(lambda: house.started == ["a", "a"] and house.pool.slots[0].loaded)
    (slot,) = house.pool.slots
    assert (slot.users, slot.idle, slot.kept) == (0, True, "auto: loaded ahead, it comes back")
    assert house.pool.ahead == ()
    await house.use("a", keep_alive=-1)
    assert (house.started, slot.kept, house.pool.ahead) == (["a", "a"], "a request asked for it", ())


@pytest.mark.parametrize("why", ["memory", "battery"])
async def test_nothing_is_loaded_ahead_at_anothers_cost(
    build: Build, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    caplog.set_level("INFO", "localai.pool")
    house = build(budget=NEED + 50) if why == "memory" else build(forbids="the machine runs on its battery")
    await house.use("a")
    await house.use("b", keep_alive=-1)
    await until(lambda: "a is not loaded ahead" in caplog.text)
    assert ("battery" if why == "battery" else "are free") in caplog.text
    assert house.loaded == ["b"]


async def test_unloading_on_demand_ends_the_plan(build: Build) -> None:
    house = build()
    await house.use("a", keep_alive=-1)
    await house.pool.unload("a")
    await house.use("b")
    assert len(house.pool.ahead) == 1
    await house.pool.unload("b")
    assert house.pool.ahead == ()
    await asyncio.sleep(0)
    assert house.started == ["a", "b"]


# -- in the daemon


def test_status_and_ps_say_why_a_model_stays() -> None:
    with running() as daemon:
        model = daemon.echo("long.txt", 0)
        daemon.chat("hello", unix=True, model=model)
        (row,) = daemon.engines()
        assert (row["keep_alive_s"], row["kept"].split(":")[0]) == (300.0, "auto")
        assert 0 < row["unloads_in_s"] <= 300
        assert "stays loaded for 5 min 0 s" in daemon.cli("models", "ps").stdout
        daemon.chat("hello", unix=True, model=model, keep_alive=-1)
        assert "stays loaded for good (a request asked for it)" in daemon.cli("status").stdout
        assert daemon.client.get("/localai/status")["ahead"] == []
        daemon.cli("stop")
        assert "long.txt" in (daemon.home / "pauses.json").read_text(encoding="utf-8")
