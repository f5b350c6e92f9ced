"""Routing with a real library and store: what was measured decides, and what is asked for is checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from localai.calibration_store import CalibrationStore, Fidelity, Subject, identity
from localai.calibration_text import best, tables
from localai.catalog import Catalog
from localai.choice import Choice
from localai.config import Config
from localai.errors import BadRequest, ModelBroken
from localai.foreign_stores import Stores
from localai.library import Library
from localai.market import Market, Prefixes
from localai.measuring import OVERDUE
from localai.messages import Message, TurnRequest
from localai.offers import build_label
from localai.orders import shape
from localai.readings import Phase, Reading
from localai.router import routed
from localai.workload import text_of, tokens_in, workload

DEVICE = "0123456789abcdef"


@dataclass
class Seen:
    """An engine as the pool shows it."""

    key: tuple[str, str, str]
    loaded: bool = True
    users: int = 0
    last_used: float = 1.0
    charged: int = 10**9


class Place:
    """A home with the starter, a store and a market; `engines` are those that the pool would show."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.library = Library(home, Catalog.load(home), Stores())
        self.model = self.library.resolve("starter")
        self.store = CalibrationStore(home)
        self.engines: tuple[Seen, ...] = ()
        self.rests: set[str] = set()
        self.market = Market(
            DEVICE, self.store, lambda: self.engines, lambda choice: "it rests" if choice.backend in self.rests else ""
        )

    def measured(self, backend: str, prefill: float, decode: float, mode: str = "", **fields: Any) -> None:
        """Keep readings of so many token/s."""
        subject = Subject(DEVICE, identity(self.model), backend, build_label(backend), mode)
        sizes = shape(self.model)
        points: list[tuple[Phase, int, float]] = [
            ("prefill", 512, 512 / prefill),
            ("decode", 1, 1 / decode),
            ("load", 0, 1.0),
        ]
        readings = tuple(
            Reading(backend, subject.build, mode, 2, "f16", sizes, phase, tokens, 0, 1, seconds, seconds, 0.0)
            for phase, tokens, seconds in points
        )
        record: dict[str, Any] = {"passes": 3, "readings": readings, "rss": 10**8, "at": time.time(), **fields}
        self.store.update(subject, "smollm2-135m-instruct", lambda old: replace(old, **record))

    def loaded(self, *backends: str) -> None:
        self.engines = tuple(Seen((str(self.model.path), backend, "")) for backend in backends)

    def route(self, text: str = "Hello there", config: dict[str, Any] | None = None, **fields: Any) -> Choice:
        request = TurnRequest(**({"kind": "chat", "model": "", "messages": (Message("user", text),)} | fields))
        return routed(request, self.library, Config(home=self.home, **(config or {})), self.market)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


LONG = "It was a dark and stormy night. " * 200


def test_before_calibration_llama_cpp_serves_and_says_so(place: Place) -> None:
    choice = place.route()
    assert choice.backend == "llama.cpp"
    assert "until the engines are measured" in choice.reason


def test_the_workload_decides_between_measured_engines(place: Place) -> None:
    place.measured("llama.cpp", 200, 160)
    place.measured("onnx", 600, 120)
    place.loaded("llama.cpp", "onnx")
    assert place.route(policy="fastest").backend == "llama.cpp"
    choice = place.route(LONG, policy="fastest", max_tokens=20)
    assert choice.backend == "onnx"
    assert "should take" in choice.reason
    assert "best token/s: prefill onnx 600, decode llama.cpp 160" in choice.reason


def test_a_conversation_stays_with_the_engine_that_read_it(place: Place) -> None:
    place.measured("llama.cpp", 400, 150)
    place.measured("onnx", 600, 150)
    place.loaded("llama.cpp", "onnx")
    assert place.route(LONG, policy="fastest", max_tokens=20, backend="llama.cpp").backend == "llama.cpp"
    more = LONG + " And then?"
    assert place.route(more, policy="fastest", max_tokens=20).backend == "llama.cpp"
    place.loaded("onnx")
    assert place.route(more, policy="fastest", max_tokens=20).backend == "onnx"


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        pytest.param({"verdict": "it computes nonsense"}, "onnx is not used: it computes nonsense", id="lies"),
        pytest.param({}, "onnx is not used: it rests", id="rests"),
    ],
)
def test_what_must_not_be_used_is_explained(place: Place, setup: dict[str, Any], said: str) -> None:
    place.measured("llama.cpp", 100, 50)
    place.measured("onnx", 900, 900, **setup)
    place.rests = set() if setup else {"onnx"}
    choice = place.route(policy="fastest")
    assert choice.backend == "llama.cpp"
    assert said in choice.reason


def test_slow_engines_serve_where_no_other_does(place: Place) -> None:
    """A model that needs more time than a measurement has must not be refused for it."""
    late = f"{OVERDUE} 28 s"
    place.measured("llama.cpp", 1, 1, readings=(), verdict=late)
    place.measured("onnx", 1, 1, readings=(), verdict=late)
    place.measured("mlx", 1, 1, readings=(), verdict="it computes nonsense")
    choice = place.route()
    assert choice.backend == "llama.cpp"
    assert "mlx is not used: it computes nonsense" in choice.reason
    place.rests = {"llama.cpp"}
    assert place.route().backend == "onnx"
    place.rests = {"llama.cpp", "onnx"}
    with pytest.raises(ModelBroken, match="no engine here runs"):
        place.route()


@pytest.mark.parametrize(
    ("fidelity", "mode"),
    [
        pytest.param(Fidelity(10.0, 1.2, 0.8), "", id="it loses accuracy"),
        pytest.param(Fidelity(10.0, 1.001, 0.97), "prefill8", id="measured to be harmless"),
        pytest.param(None, "", id="not compared"),
    ],
)
def test_a_less_exact_mode_must_be_measured_as_harmless(place: Place, fidelity: Fidelity | None, mode: str) -> None:
    place.measured("llama.cpp", 100, 50)
    place.measured("onnx", 200, 100)
    place.measured("onnx", 200, 150, mode="prefill8", fidelity=fidelity)
    assert place.route(policy="fastest").mode == mode
    assert place.route(backend="onnx:prefill8").mode == "prefill8"


@pytest.mark.parametrize(
    ("fields", "config", "said"),
    [
        pytest.param({"backend": "vllm"}, {}, "no backend named 'vllm'", id="unknown backend"),
        pytest.param({"backend": "onnx:fast"}, {}, "onnx has no mode 'fast'", id="unknown mode"),
        pytest.param({}, {"backend": "vllm"}, "no backend named 'vllm'", id="unknown backend in the settings"),
        pytest.param({"policy": "best"}, {}, "no policy named 'best'", id="unknown policy"),
    ],
)
def test_wrong_wishes(place: Place, fields: dict[str, Any], config: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        place.route(config=config, **fields)
    assert caught.value.hint


def test_a_backend_that_cannot_run_the_model_names_the_one_that_can(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "mlx-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    (folder / "model.safetensors").write_bytes(b"w")
    with pytest.raises(BadRequest, match=r"llama\.cpp opens no MLX folders"):
        place.route(model=str(folder), trusted=True, backend="llama.cpp")
    with pytest.raises(ModelBroken, match="no engine here runs file:mlx-model"):
        place.route(model=str(folder), trusted=True)


def test_the_best_of_each_phase_and_the_table(place: Place) -> None:
    place.measured("llama.cpp", 200, 160)
    place.measured("onnx", 600, 120, fidelity=Fidelity(10.0, 1.001, 0.97))
    place.measured("onnx", 600, 120, mode="float", verdict="it is too slow")
    records = place.market.all_records()
    won = best(records)["smollm2-135m-instruct"]
    assert {phase: each["backend"] for phase, each in won.items()} == {"prefill": "onnx", "decode": "llama.cpp"}
    text = "\n".join(tables(records))
    assert "best: prefill onnx, decode llama.cpp" in text
    assert "onnx:float is not used: it is too slow" in text
    assert tables([]) == []


# -- what a request will take


@pytest.mark.parametrize(
    ("fields", "prompt", "answer", "sequences"),
    [
        pytest.param({"prompt": "x" * 400}, 106, 128, 1, id="text"),
        pytest.param({"prompt_tokens": tuple(range(77)), "max_tokens": 9}, 77, 9, 1, id="tokens"),
        pytest.param({"prompt": "x" * 400, "n": 3, "together": 4}, 106, 128, 12, id="several at once"),
        pytest.param({"prompt": "", "max_tokens": 500, "ignore_eos": True}, 7, 500, 1, id="to the limit"),
    ],
)
def test_a_request_is_sized_before_it_is_tokenized(fields: Any, prompt: int, answer: int, sequences: int) -> None:
    request = TurnRequest(kind="completion", model="", **fields)
    made = workload(request, text_of(request))
    assert (made.prompt, made.answer, made.sequences) == (prompt, answer, sequences)


def test_token_counts_of_real_text_are_near(place: Place) -> None:
    assert tokens_in("The harbour wakes before the town does.") == pytest.approx(8, abs=3)


def test_prefixes_are_found_by_what_texts_begin_with() -> None:
    prefixes = Prefixes()
    key = ("m", "onnx", "")
    prefixes.note(key, "a" * 1000)
    assert prefixes.share(key, "a" * 1000 + "b" * 1000) == pytest.approx(768 / 2000)
    assert prefixes.share(key, "b" + "a" * 1000) == 0.0
    assert prefixes.share(("m", "llama.cpp", ""), "a" * 1000) == 0.0
    prefixes.keep_only(set())
    assert prefixes.share(key, "a" * 1000) == 0.0
