"""Model `auto` in a real daemon: choosing, checking, limits, and what answer and ledger say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from localai.bench import journal
from localai.calibration_store import identity
from localai.catalog import Catalog
from localai.library import Library
from tests.auto_runs import finished
from tests.daemon_fixture import Daemon, Json, events_of, running, wait_for
from tests.tiny_models import tiny_gguf

STARTER = "smollm2-135m-instruct"
SUM = "What is 12 + 30? Give only the number."
POEM = "Write a short poem about rain"
ALL = ("arithmetic", "extraction", "ordering", "formatting", "retrieval", "code", "choice")


class Place:
    """A daemon with the starter and a model of random weights; `measured` says what they are taken to be able to."""

    def __init__(self, daemon: Daemon, tiny: str, digests: Mapping[str, str]) -> None:
        self.daemon = daemon
        self.tiny = tiny
        self._digests = digests

    def measured(self, tiny: int, starter: int, *, dear: float = 20.0, scale: float = 0.01, **by_category: int) -> None:
        """Right answers of 40 in every category; `by_category` are those of the small one that differ."""
        for path in journal.folder(self.daemon.home).glob("*.jsonl"):
            path.unlink()
        truth = {
            self.tiny: ({**dict.fromkeys(ALL, tiny), **by_category}, scale),
            STARTER: (dict.fromkeys(ALL, starter), scale * dear),
        }
        finished(self.daemon.home, truth, digests=self._digests, backend="llama.cpp")

    def ask(self, text: str, **fields: Any) -> Json:
        answer = self.daemon.chat(text, **{"model": "auto", **fields})
        assert answer.status == 200, answer.content
        return dict(answer.json)

    def rows(self, request: str, count: int) -> list[Json]:
        """The ledger's rows of a request and its parts, once there are as many."""
        name = request.rpartition("-")[2]

        def found() -> list[Json]:
            own = [r for r in self.daemon.rows("queries") if name in (r["request"], r["parent"])]
            return own if len(own) == count else []

        return list(wait_for(found, 30))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running(LOCALAI_CPU_WATTS="10") as daemon:
        file = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny-auto.gguf")
        done = daemon.cli("models", "import", str(file), "--json")
        assert done.returncode == 0, done.stderr
        tiny = json.loads(done.stdout)["id"]
        library = Library(daemon.home, Catalog.load(daemon.home))
        yield Place(daemon, tiny, {name: identity(library.resolve(name)) for name in (tiny, STARTER)})


def test_without_measurements_it_is_the_default_model(place: Place) -> None:
    for path in journal.folder(place.daemon.home).glob("*.jsonl"):
        path.unlink()
    answer = place.ask(SUM)
    assert answer["model"] == STARTER
    assert "auto: starter is the default model, and no models were measured" in answer["reason"]
    assert "localai bench -m" in answer["reason"]
    assert answer["auto"]["joules"] is None


def test_the_cheapest_that_is_good_enough_answers(place: Place) -> None:
    place.measured(tiny=4, starter=38, code=39)
    answer = place.ask(SUM)
    assert (answer["model"], answer["auto"]["category"]) == (STARTER, "arithmetic")
    assert answer["reason"].startswith("auto: arithmetic (")
    code = place.ask("Write a Python function that reverses a list", max_tokens=4)
    assert (code["model"], code["auto"]["category"]) == (place.tiny, "code")
    assert code["auto"]["joules"] < code["auto"]["largest_joules"]
    (row,) = place.rows(code["id"], 1)
    assert row["auto_times"] == pytest.approx(20, rel=0.01)
    assert row["model"] == place.tiny
    assert row["reason"] == code["reason"]


def test_an_answer_in_doubt_is_checked_and_replaced(place: Place) -> None:
    """Random weights do not say the same twice, so that the other model answers in the end."""
    place.measured(tiny=30, starter=33)
    answer = place.ask(SUM)
    assert answer["model"] == STARTER
    assert "2 samples say otherwise" in answer["auto"]["check"]
    assert answer["auto"]["requests"] == 4
    rows = place.rows(answer["id"], 4)
    assert [row["model"] for row in rows] == [place.tiny] * 3 + [STARTER]
    assert all(row["parent"] == answer["id"].rpartition("-")[2] and row["joules"] > 0 for row in rows)
    assert answer["usage"]["energy"]["joules"] == pytest.approx(sum(row["joules"] for row in rows), rel=1e-3)
    assert [row["auto_times"] for row in rows] == [pytest.approx(20, rel=0.01), 0, 0, 0]
    assert answer["timings"]["ttft_ms"] <= answer["timings"]["total_ms"]


def test_an_answer_that_samples_repeat_is_given(place: Place) -> None:
    """With one likely token alone, samples say what the answer says."""
    place.measured(tiny=30, starter=33)
    answer = place.ask(SUM, top_k=1)
    assert answer["model"] == place.tiny
    assert answer["auto"]["check"] == "agrees with sample 1"
    assert len(place.rows(answer["id"], 2)) == 2


def test_the_limit_of_joules_ends_the_checking(place: Place) -> None:
    # Taken for dear, and cheap in truth: what is left does not depend on the machine's pace.
    place.measured(tiny=30, starter=33, scale=1000.0)
    free = place.ask(SUM)
    assert (free["model"], free["auto"]["requests"]) == (STARTER, 4)
    answer = place.ask(SUM, max_joules=0.8 * free["auto"]["largest_joules"])
    assert (answer["model"], answer["auto"]["requests"]) == (place.tiny, 3)
    assert "2 samples say otherwise; max_joules" in answer["auto"]["check"]
    assert "max_joules" in answer["usage"]["energy"]["stopped"]
    assert answer["choices"][0]["message"]["content"]


def test_a_limit_that_is_too_low_for_a_better_choice_says_so(place: Place) -> None:
    place.measured(tiny=4, starter=40, dear=1e4)
    answer = place.ask(SUM, max_joules=500)
    assert answer["model"] == place.tiny
    assert "max_joules 500 leaves no better choice" in answer["reason"]


def test_a_prompt_that_a_model_cannot_hold_goes_to_another(place: Place) -> None:
    place.measured(tiny=40, starter=40)
    answer = place.ask(POEM + " that falls on the roof" * 80)
    assert answer["model"] == STARTER


def test_an_unchecked_answer_streams_and_a_checked_one_comes_whole(place: Place) -> None:
    place.measured(tiny=39, starter=40)
    body = {"model": "auto", "max_tokens": 8, "temperature": 0, "stream": True}

    def streamed(text: str, **fields: Any) -> list[Json]:
        messages = [{"role": "user", "content": text}]
        return events_of(
            place.daemon.ask("POST", "/v1/chat/completions", {**body, **fields, "messages": messages}).content
        )

    poem = streamed(POEM)
    assert {event["model"] for event in poem} == {place.tiny}
    place.measured(tiny=30, starter=33)
    checked = streamed(SUM)
    assert {event["model"] for event in checked} == {STARTER}


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"n": 2}, 1),
        ({"logprobs": True}, 1),
        ({"response_format": {"type": "json_object"}}, 1),
    ],
    ids=["several answers", "log-probabilities", "a grammar"],
)
def test_what_cannot_be_compared_is_not_checked(place: Place, fields: Json, count: int) -> None:
    place.measured(tiny=38, starter=40)
    answer = place.ask(SUM, **fields)
    assert answer["auto"]["check"] == ""
    assert len(place.rows(answer["id"], count)) == count


def test_energy_tells_what_was_saved(place: Place) -> None:
    place.measured(tiny=39, starter=40)
    answer = place.ask(POEM)
    place.rows(answer["id"], 1)
    report = json.loads(place.daemon.cli("energy", "--by", "model", "--json").stdout)
    row = next(row for row in report["rows"] if row["key"] == place.tiny)
    assert row["auto_answers"] >= 1
    assert row["auto_largest_joules"] > row["auto_joules"] > 0
    shown = place.daemon.cli("energy").stdout
    assert "J saved" in shown
    assert "points of accuracy lost" in shown


def test_embeddings_and_completions(place: Place) -> None:
    place.measured(tiny=4, starter=38, code=39)
    body = {"model": "auto", "prompt": "def add(a, b):\n    return", "max_tokens": 4}
    done = place.daemon.ask("POST", "/v1/completions", body).json
    assert done["model"] == place.tiny
