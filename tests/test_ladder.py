"""Settings that kill the engine: tried in a real child, noted, and not used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import EngineDied
from localai.errors import EngineFailed
from localai.ladder import CANDIDATES, Rung, climb
from localai.tested import Key, TestedSettings, Verdict
from tests.engine_runs import ask, echo_file, order

KEY = Key("0123456789abcdef", "echo", "built in", "echo")
FAST, SAFE = CANDIDATES


async def load(path: Path, tested: TestedSettings) -> Rung:
    return await climb(
        order(path), KEY, tested, log=path.with_suffix(".log"), on_stage=lambda *_: None, on_step=lambda _: None
    )


async def test_what_dies_in_its_self_test_gives_way(tmp_path: Path) -> None:
    tested = TestedSettings(tmp_path / "tested.json")
    path = echo_file(tmp_path, "0 crash-fast")
    for attempt in range(2):
        rung = await load(path, tested)
        assert rung.setting == SAFE
        assert rung.handle.order.prove == (attempt == 0)
        assert (await ask(rung.handle, list(b"hello"))).text == "hello"
        await rung.handle.stop()
    assert tested.deaths(KEY, FAST) == {"self-test": 1}
    line = tested.explain(KEY)[0]
    assert "AMX tile kernels and weight repacking turned off" in line
    assert "SIGSEGV" in line


async def test_the_fast_setting_stays_where_it_lives(tmp_path: Path) -> None:
    tested = TestedSettings(tmp_path / "tested.json")
    rung = await load(echo_file(tmp_path), tested)
    await rung.handle.stop()
    assert rung.setting == FAST
    assert tested.verdict(KEY, FAST) is not None
    assert not any("turned off" in line for line in tested.explain(KEY))


async def test_two_deaths_on_decode_demote(tmp_path: Path) -> None:
    tested = TestedSettings(tmp_path / "tested.json")
    path = echo_file(tmp_path, "0 crash-decode")
    # The self-test survives, so the setting counts as proven and dies later.
    tested.record(KEY, FAST, Verdict("survived"))
    for _ in range(2):
        rung = await load(path, tested)
        assert rung.setting == FAST
        with pytest.raises(EngineDied) as caught:
            await ask(rung.handle, list(b"x" * 80))
        assert (caught.value.cause, caught.value.step) == ("SIGSEGV", "decode")
        tested.record(rung.key, rung.setting, Verdict("died", caught.value.cause, caught.value.step))
        await rung.handle.stop()
    rung = await load(path, tested)
    assert rung.setting == SAFE
    assert (await ask(rung.handle, list(b"x" * 80))).text == "x" * 80
    await rung.handle.stop()


async def test_an_engine_that_dies_of_everything_is_an_error(tmp_path: Path) -> None:
    tested = TestedSettings(tmp_path / "tested.json")
    for setting in CANDIDATES:
        tested.record(KEY, setting, Verdict("died", "SIGILL"))
    with pytest.raises(EngineFailed, match="every setting"):
        await load(echo_file(tmp_path), tested)


async def test_a_memory_that_cannot_be_written_does_not_stop_a_load(tmp_path: Path) -> None:
    (tmp_path / "tested.json.lock").mkdir()
    rung = await load(echo_file(tmp_path), TestedSettings(tmp_path / "tested.json"))
    await rung.handle.stop()
    assert rung.setting == FAST
