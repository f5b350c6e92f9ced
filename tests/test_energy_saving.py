"""Joules before a query, and what saves them: learned watts, forecasts, a power cap, and life on a battery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localai.config import Config
from localai.energy.draw import HINDERED, Draw, Draws, typical
from localai.energy.figures import Energy
from localai.energy.on_battery import PowerSource, Saver
from localai.energy.pacing import Pacer
from localai.energy.prediction import query_joules, row_joules, token_rates
from localai.energy.shares import Amount
from localai.energy.taps import EngineKey, Rates, Work
from localai.forecast import Speeds, Workload
from tests.daemon_fixture import Daemon, running

SPEEDS = Speeds(
    near=((1, 0.01), (512, 1.0)), slope=0.0, first=0.01, further=0.002, look=0.0, load_s=1.0, embed=0.002, busy=2.0
)
DRAW = Draw(threads=2, prefill=40.0, decode=20.0, quality="measured", basis="here")


@pytest.fixture
def draws(tmp_path: Path) -> Iterator[Draws]:
    found = Draws(tmp_path / "watts.json", "device")
    yield found
    found.close()


@pytest.mark.parametrize(
    ("work", "joules"),
    [
        pytest.param(Workload(prompt=512, answer=100), 512 / 512 * 40 + 1.0 * 20, id="a chat"),
        pytest.param(Workload(prompt=512, answer=0, cached=511), 0.01 * 40, id="all of it in the cache"),
        pytest.param(Workload(prompt=10, answer=0, embeds=True), 0.02 * 40, id="an embedding"),
    ],
)
def test_joules_of_a_query_are_seconds_of_each_phase_times_its_watts(work: Workload, joules: float) -> None:
    assert query_joules(SPEEDS, DRAW, work) == pytest.approx(joules)
    assert query_joules(SPEEDS, Draw(threads=2), work) is None


def test_a_planned_row_has_a_range_and_says_how_it_is_known() -> None:
    found = row_joules((100.0, 80.0, 120.0), (50.0, 40.0, 60.0), DRAW)
    decode = found["decode_joules_per_token"]
    assert decode["value"] == pytest.approx(0.4)
    assert decode["low"] < 0.4 * 50 / 60 < 0.4 * 50 / 40 < decode["high"]
    assert (found["quality"], found["basis"]) == ("measured", "here")
    assert row_joules((1, 1, 1), (1, 1, 1), Draw(threads=2))["decode_joules_per_token"] is None


def test_the_error_of_a_prediction_is_that_of_what_was_known_before() -> None:
    rates = token_rates(SPEEDS, DRAW)
    assert (rates.prefill, rates.decode) == pytest.approx((40 / 512, 0.2))
    prompt, answer = Amount(1, 512, 0), Amount(10, 10, 0)
    assert Work(Rates(decode=0.3).completed(rates), prefill=prompt, decode=answer).predicted() == pytest.approx(40 + 3)
    assert Work(Rates(prefill=1.0), decode=answer).predicted() is None


def test_watts_are_learned_and_outlive_the_daemon(draws: Draws, tmp_path: Path) -> None:
    assert draws.of("onnx", "", 2) is None
    draws.learn("onnx", "", typical(2, 6.0))
    draws.learn("onnx", "", DRAW)
    draws.learn("onnx", "", Draw(threads=2, prefill=60.0, decode=None, quality="measured"))
    draws.close()
    again = Draws(tmp_path / "watts.json", "device")
    learned = again.of("onnx", "", 2)
    assert learned is not None
    assert (learned.prefill, learned.decode) == pytest.approx((44.0, 20.0))
    assert (learned.quality, learned.basis) == ("measured", "here")
    scaled = again.of("onnx", "", 1)
    assert scaled is not None
    assert (scaled.decode, scaled.quality) == (10.0, "modelled")
    assert Draws(tmp_path / "watts.json", "another device").of("onnx", "", 2) is None


def test_one_odd_answer_moves_watts_little(draws: Draws) -> None:
    draws.learn("onnx", "", DRAW)
    draws.learn("onnx", "", Draw(threads=2, prefill=4000.0, decode=0.01, quality="measured", basis="here"))
    learned = draws.of("onnx", "", 2)
    assert learned is not None
    assert (learned.prefill, learned.decode) == pytest.approx((48.0, 18.0))


def test_watts_of_a_quiet_machine_replace_those_beside_others(draws: Draws) -> None:
    beside = Draw(threads=2, prefill=4.0, decode=2.0, quality="measured", basis=f"here{HINDERED}")
    draws.learn("onnx", "", beside)
    assert draws.of("onnx", "", 2) == beside
    draws.learn("onnx", "", DRAW)
    draws.learn("onnx", "", beside)
    assert draws.of("onnx", "", 2) == DRAW


class Engine:
    rested: float | None = None

    def pace(self, rest: float) -> None:
        self.rested = rest


@pytest.mark.parametrize(
    ("cap", "engines", "rest"),
    [
        pytest.param(20.0, 1, 1.0, id="half the power is as much rest as work"),
        pytest.param(20.0, 2, 3.0, id="two engines share it"),
        pytest.param(100.0, 1, 0.0, id="wide enough"),
        pytest.param(0.01, 1, 50.0, id="never a standstill"),
        pytest.param(0.0, 1, None, id="no cap"),
    ],
)
def test_a_cap_makes_engines_rest(draws: Draws, cap: float, engines: int, rest: float | None) -> None:
    draws.learn("llama.cpp", "", DRAW)
    working: list[tuple[EngineKey, int]] = [((f"model {i}", "llama.cpp", ""), 2) for i in range(engines)]
    engine = Engine()
    pacer = Pacer(cap, draws, lambda: working, lambda: [engine])
    pacer.adjust()
    assert engine.rested == (None if rest is None else pytest.approx(rest))
    assert pacer.said.startswith(f"power_cap {cap:g} W") is bool(rest)


def _pack(root: Path, status: str, scope: str = "System") -> PowerSource:
    folder = root / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"type": "Battery", "status": status, "scope": scope}.items():
        (folder / name).write_text(f"{content}\n")
    return PowerSource(root, "Linux")


@pytest.mark.parametrize(
    ("status", "scope", "setting", "saves"),
    [
        pytest.param("Discharging", "System", "frugal", True, id="on battery"),
        pytest.param("Charging", "System", "frugal", False, id="on mains"),
        pytest.param("Discharging", "Device", "frugal", False, id="a mouse's battery"),
        pytest.param("Discharging", "System", "same", False, id="not asked for"),
    ],
)
def test_on_battery_settings_become_frugal(tmp_path: Path, status: str, scope: str, setting: str, saves: bool) -> None:
    config = Config(home=tmp_path, on_battery=setting, battery_model="small", battery_joules=50.0)
    saver = Saver(config, _pack(tmp_path, status, scope))
    eased, words = saver.eased()
    assert (eased.policy, eased.default_model) == (("frugal", "small") if saves else ("balanced", "starter"))
    assert words == ("on battery: frugal" if saves else "")
    assert (saver.limit(None), saver.limit(80.0), saver.limit(9.0)) == ((50.0, 50.0, 9.0) if saves else (None, 80.0, 9))


@pytest.fixture(scope="module")
def capped() -> Iterator[Daemon]:
    """A daemon whose processor is taken to draw 10 W per core, and which may draw 4 W."""
    with running(LOCALAI_CPU_WATTS="10", LOCALAI_POWER_CAP="4", LOCALAI_THREADS="1", LOCALAI_CALIBRATE="0") as daemon:
        daemon.chat("Hello", max_tokens=8)
        yield daemon


def test_a_capped_daemon_draws_less_over_time(capped: Daemon) -> None:
    # Rest follows the watts of the answers before: where a neighbour comes or goes, the next answer finds out.
    assert any(_is_held_to(4.0, capped) for _ in range(6))


def _is_held_to(cap: float, daemon: Daemon) -> bool:
    answer = daemon.chat("Tell me of foxes.", max_tokens=48, ignore_eos=True).json
    energy = Energy(**{k: v for k, v in answer["usage"]["energy"].items() if k in ("joules", "watts")})
    assert energy.joules is not None
    assert energy.watts is not None
    over_time = energy.joules / (answer["timings"]["total_ms"] / 1000)
    # Neighbours that leave it little of a core hold it down as well.
    return over_time <= 1.5 * cap and (over_time < 0.75 * energy.watts or energy.watts <= 1.5 * cap)


def test_the_plan_tells_joules_of_learned_watts(capped: Daemon) -> None:
    report = json.loads(capped.cli("models", "plan", "starter", "--json").stdout)
    found = {row["energy"]["basis"]: row["energy"] for row in report["rows"]}
    assert all(row["decode_joules_per_token"]["value"] > 0 for row in found.values())
    assert any("in answers here" in basis for basis in found)
    assert {row["quality"] for row in found.values()} <= {"modelled", "measured", "measured_partial"}
    assert "J/TOKEN" in capped.cli("models", "plan", "starter").stdout
