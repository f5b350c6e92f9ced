"""Several backends behind one daemon: chosen by name, switched without loading, refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from localai.offers import NAMES
from tests.daemon_fixture import Daemon, running, wait_for

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def loaded() -> Iterator[Daemon]:
    """A daemon that has answered on every backend that runs on this machine at a useful speed."""
    with running(LOCALAI_THREADS="1") as daemon:
        for backend in ("llama.cpp", "onnx"):
            answer = daemon.chat(QUESTION, backend=backend)
            assert answer.status == 200, answer.json
        yield daemon


def engines(daemon: Daemon) -> dict[str, int]:
    return {engine["backend"]: engine["pid"] for engine in daemon.engines()}


def test_the_answer_comes_from_the_backend_that_was_asked_for(loaded: Daemon) -> None:
    for backend in ("llama.cpp", "onnx"):
        answer = loaded.chat(QUESTION, backend=backend).json
        assert answer["backend"] == backend
        assert f"{backend} was asked for" in answer["reason"]
        assert "Paris" in answer["choices"][0]["message"]["content"]


def test_switching_between_loaded_backends_loads_nothing(loaded: Daemon) -> None:
    before = engines(loaded)
    assert set(before) == {"llama.cpp", "onnx"}
    for backend in ("llama.cpp", "onnx", "llama.cpp", "onnx"):
        assert loaded.chat(QUESTION, backend=backend).json["timings"]["load_ms"] == 0
    assert engines(loaded) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"backend": "vllm"}, "choose one of: " + ", ".join(NAMES)),
        ({"backend": "onnx:sloppy"}, "onnx has no mode 'sloppy'"),
        ({"policy": "cheapest"}, "choose one of: balanced, fastest"),
    ],
    ids=["backend", "mode", "policy"],
)
def test_wrong_wishes_are_refused(loaded: Daemon, fields: dict[str, Any], said: str) -> None:
    answer = loaded.chat(QUESTION, **fields)
    assert answer.status == 400
    assert said in answer.error["message"]


def test_status_tells_both_engines_and_what_is_measured(loaded: Daemon) -> None:
    report = loaded.client.get("/localai/status")
    assert {engine["backend"] for engine in report["engines"]} == {"llama.cpp", "onnx"}
    assert (report["measuring"], report["best"]) == ("", {})
    assert "on onnx" in loaded.cli("status").stdout


def test_embeddings_and_completions_take_backend_and_policy(loaded: Daemon) -> None:
    wish = {"backend": "onnx", "policy": "fastest"}
    for path, body in (("embeddings", {"input": "hello"}), ("completions", {"prompt": "hello", "max_tokens": 2})):
        answer = loaded.ask("POST", f"/v1/{path}", {**body, **wish})
        assert answer.status == 200, answer.json
    # The ledger is written behind the answers.
    wait_for(lambda: [row["backend"] for row in loaded.rows("queries")[-2:]] == ["onnx", "onnx"])


def test_the_command_line_takes_backend_and_policy(loaded: Daemon) -> None:
    done = loaded.cli("ask", "-B", "onnx", "--max-tokens", "4", "--json", QUESTION)
    assert json.loads(done.stdout)["backend"] == "onnx"
    wrong = loaded.cli("ask", "--policy", "cheapest", QUESTION)
    assert (wrong.returncode, "no policy named" in wrong.stderr) == (2, True)


def test_a_policy_that_does_not_exist_in_the_settings(loaded: Daemon) -> None:
    done = loaded.cli("serve", "--policy", "cheapest")
    assert (done.returncode, "expected one of: balanced, fastest, frugal" in done.stderr) == (2, True)


def test_a_damaged_calibration_file_costs_nothing_but_itself(loaded: Daemon) -> None:
    (loaded.home / "calibration.json").write_text('{"records": [')
    answer = loaded.chat(QUESTION)
    assert answer.status == 200
    assert "until the engines are measured" in answer.json["reason"]
    assert (loaded.home / "calibration.json.corrupt").exists()


def test_unloading_a_model_unloads_it_from_every_backend(loaded: Daemon) -> None:
    for backend in ("llama.cpp", "onnx"):
        loaded.chat(QUESTION, backend=backend)
    loaded.client.post("/localai/unload", {"model": "starter"})
    assert loaded.engines() == []
