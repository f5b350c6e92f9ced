"""A model of the daemon as the memory's embedder: it is used, changed while memories are there, and missed in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_fixture import Daemon, running, wait_for
from tests.tiny_bert import tiny_bert

ROUTE = "/localai/memory"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(LOCALAI_MEMORY_EMBEDDER="missing") as started:
        yield started


def again(daemon: Daemon, model: str) -> None:
    daemon.end()
    daemon.env["LOCALAI_MEMORY_EMBEDDER"] = model
    daemon.start()


def stats(daemon: Daemon) -> Any:
    return daemon.ask("GET", f"{ROUTE}/stats", unix=True).json


def meaning(daemon: Daemon, text: str) -> float:
    hits = daemon.ask("POST", f"{ROUTE}/search", {"query": text}, unix=True).json["hits"]
    return float(max(hit["parts"]["cosine"] for hit in hits))


def test_another_model_takes_over_and_the_built_in_one_comes_back(daemon: Daemon) -> None:
    for text in ("The boat of Ana is blue", "The mill stands by the river"):
        assert "missing" in daemon.ask("POST", ROUTE, {"text": text}, unix=True).json["fallback"]
    found = daemon.ask("POST", f"{ROUTE}/search", {"query": "boat"}, unix=True).json
    assert (len(found["hits"]), "built-in embedder" in found["fallback"]) == (1, True)
    again(daemon, "")
    own = stats(daemon)["embedder"]
    model = tiny_bert(daemon.home / "encoder.gguf")
    again(daemon, str(model))
    wait_for(lambda: meaning(daemon, "The boat of Ana is blue") > 0.9)
    assert stats(daemon)["embedder"].startswith("model:")
    model.rename(daemon.home / "away.gguf")
    again(daemon, str(model))
    assert daemon.ask("POST", ROUTE, {"text": "The barn holds hay"}, unix=True).status == 200
    assert str(model) not in stats(daemon)["fallback"]
    examined = daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json
    assert (examined["healthy"], bool(examined["fallback"])) == (True, True)
    (daemon.home / "away.gguf").rename(model)
    again(daemon, str(model))
    wait_for(lambda: meaning(daemon, "The barn holds hay") > 0.9)
    assert stats(daemon)["fallback"] is None
    again(daemon, "")
    wait_for(lambda: meaning(daemon, "The boat of Ana is blue") > 0.9)
    assert stats(daemon)["embedder"] == own
    assert daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json["healthy"]
