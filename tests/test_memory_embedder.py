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
    refused = daemon.ask("POST", ROUTE, {"text": "The boat of Ana is blue"}, unix=True)
    assert refused.status >= 400
    assert "missing" in refused.error["message"]
    again(daemon, "")
    for text in ("The boat of Ana is blue", "The mill stands by the river"):
        assert daemon.ask("POST", ROUTE, {"text": text}, unix=True).status == 200
    own = stats(daemon)["embedder"]
    again(daemon, str(tiny_bert(daemon.home / "encoder.gguf")))
    wait_for(lambda: meaning(daemon, "The boat of Ana is blue") > 0.9)
    assert stats(daemon)["embedder"].startswith("model:")
    again(daemon, "")
    wait_for(lambda: meaning(daemon, "The boat of Ana is blue") > 0.9)
    assert stats(daemon)["embedder"] == own
    assert daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json["healthy"]
