"""The choice among measured engines: by policy, by workload, with a memory for who holds the conversation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localai.choosing import Option, check_policy, decide, phases
from localai.energy.draw import Draw
from localai.energy.figures import Quality
from localai.errors import BadRequest
from localai.forecast import Speeds, Workload

CHAT = Workload(prompt=40, answer=200)
LONG = Workload(prompt=2000, answer=50)


def speeds(prefill: float, decode: float, *, embed: float | None = None, load: float = 1.0) -> Speeds:
    """An engine of so many token/s."""
    return Speeds(
        near=((1, 1 / decode), (512, 512 / prefill)),
        slope=0.0,
        first=1 / decode,
        further=0.2 / decode,
        look=0.0,
        load_s=load,
        embed=embed,
        busy=2.0,
    )


LLAMA = Option(backend="llama.cpp", speeds=speeds(300, 150, embed=0.004), memory=300)
ONNX = Option(backend="onnx", speeds=speeds(600, 120), memory=400)


@pytest.mark.parametrize(
    ("work", "winner"),
    [
        pytest.param(CHAT, "llama.cpp", id="decoding counts in a chat"),
        pytest.param(LONG, "onnx", id="prefill counts with a long prompt"),
        pytest.param(Workload(prompt=400, answer=0, embeds=True), "llama.cpp", id="only one embeds"),
    ],
)
def test_fastest_follows_the_workload(work: Workload, winner: str) -> None:
    decision = decide("fastest", [LLAMA, ONNX], work)
    assert decision.option.backend == winner
    assert "measured here, best token/s" in decision.reason


def test_the_best_of_each_phase_is_told() -> None:
    found = phases([LLAMA, ONNX])
    assert {phase: (name, round(rate)) for phase, (name, rate) in found.items()} == {
        "prefill": ("onnx", 600),
        "decode": ("llama.cpp", 150),
    }
    assert "prefill onnx 600, decode llama.cpp 150" in decide("fastest", [LLAMA, ONNX], CHAT).reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param([replace(LLAMA, speeds=None), ONNX], "until the engines are measured", id="not measured"),
        pytest.param([LLAMA], "the only engine", id="alone"),
        pytest.param([LLAMA, replace(ONNX, problem="it lies")], "onnx is not used: it lies", id="the other is bad"),
    ],
)
def test_without_a_comparison_the_preferred_one_serves(options: list[Option], said: str) -> None:
    decision = decide("fastest", options, LONG)
    assert decision.option.backend == "llama.cpp"
    assert said in decision.reason


def test_what_is_not_measured_yet_does_not_bid() -> None:
    decision = decide("fastest", [LLAMA, replace(ONNX, speeds=None)], LONG)
    assert decision.option.backend == "llama.cpp"


@pytest.mark.parametrize(
    ("held", "winner"),
    [pytest.param(1900, "llama.cpp", id="holds the prompt"), pytest.param(200, "onnx", id="holds too little")],
)
def test_a_conversation_stays_where_its_cache_is_unless_moving_pays(held: int, winner: str) -> None:
    holder = replace(LLAMA, loaded=True, held=held, last_used=10.0)
    other = replace(ONNX, loaded=True, last_used=5.0)
    assert decide("fastest", [holder, other], LONG).option.backend == winner


def test_gains_within_the_noise_move_nothing() -> None:
    served = replace(ONNX, speeds=speeds(300, 148), loaded=True, last_used=10.0)
    other = replace(LLAMA, loaded=True, last_used=5.0)
    assert decide("fastest", [other, served], CHAT).option.backend == "onnx"
    assert decide("fastest", [other, replace(served, last_used=1.0)], CHAT).option.backend == "llama.cpp"


def test_a_load_is_charged_in_full_by_balanced_and_in_part_by_fastest() -> None:
    loaded, faster = replace(LLAMA, loaded=True), replace(ONNX, speeds=speeds(600, 200, load=3.0))
    assert decide("fastest", [loaded, faster], LONG).option.backend == "onnx"
    assert decide("balanced", [loaded, faster], CHAT).option.backend == "llama.cpp"


def test_balanced_takes_less_memory_where_the_difference_is_small() -> None:
    near = replace(ONNX, speeds=speeds(310, 155), loaded=True, memory=900)
    loaded = replace(LLAMA, loaded=True)
    assert decide("fastest", [loaded, near], CHAT).option.backend == "onnx"
    decision = decide("balanced", [loaded, near], CHAT)
    assert decision.option.backend == "llama.cpp"
    assert "close to the fastest" in decision.reason


def test_a_busy_engine_takes_more_rather_than_a_second_beside_it() -> None:
    busy = replace(LLAMA, loaded=True, users=1)
    idle = replace(ONNX, speeds=speeds(600, 160), loaded=True)
    assert decide("fastest", [busy, idle], CHAT).option.backend == "llama.cpp"


def test_policies_that_do_not_exist() -> None:
    with pytest.raises(BadRequest, match="no policy named 'quick'"):
        check_policy("quick")


def draw(watts: float, quality: Quality = "measured") -> Draw:
    return Draw(threads=2, prefill=watts, decode=watts, quality=quality)


@pytest.mark.parametrize(
    ("llama", "onnx", "winner", "said"),
    [
        pytest.param(draw(30), draw(10), "onnx", "(measured)", id="measured watts decide"),
        pytest.param(draw(10), draw(30), "llama.cpp", "(measured)", id="the other way round"),
        pytest.param(draw(30), draw(1, "modelled"), "llama.cpp", "(modelled)", id="never measured against modelled"),
        pytest.param(draw(30), None, "llama.cpp", "(modelled)", id="never measured against unknown"),
    ],
)
def test_frugal_takes_the_fewest_joules(llama: Draw, onnx: Draw | None, winner: str, said: str) -> None:
    options = [replace(LLAMA, draw=llama, loaded=True), replace(ONNX, draw=onnx, loaded=True)]
    decision = decide("frugal", options, CHAT)
    assert decision.option.backend == winner
    assert decision.reason.startswith(f"frugal: {winner}")
    assert said in decision.reason
    assert " J (" in decision.reason
