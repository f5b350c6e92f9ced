"""A model of the daemon as the memory's embedder: it is used, changed while memories are there, and missed in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest

from localai.config import Config
from localai.memories import Memories
from memory_store.embed import StaticEmbedder, Vectors
from memory_store.errors import EmbedderFault
from memory_store.recall import Question
from memory_store.records import NewMemory
from memory_store.standby import Standby
from tests.daemon_fixture import Daemon, events_of, running, wait_for
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


class Moody:
    """A real model that can be taken away."""

    digest, width = "moody:1", 128

    def __init__(self) -> None:
        self.well = True
        self._model = StaticEmbedder()

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not self.well:
            raise EmbedderFault("the engine died")
        return self._model.embed(texts)[:, :128].copy()


def test_what_a_dead_model_missed_is_made_when_it_answers_again(tmp_path: Path) -> None:
    model, hours = Moody(), iter(range(0, 10**6, 3600))
    memories = Memories(Config(home=tmp_path))
    memories.embedder = Standby(model, clock=lambda: float(next(hours)))

    def found(text: str) -> tuple[str, float]:
        hit = memories.search(Question(text=text))[0]
        return hit.memory.id, hit.why.cosine

    def remembered(text: str) -> str:
        return memories.remember(NewMemory(text=text)).id

    boat = remembered("The boat of Ana is blue")
    assert (found("the boat of Ana")[0], memories.fallback) == (boat, None)
    model.well = False
    mill = remembered("The mill stands by the river")
    assert [found(text) for text in ("boat", "mill")] == [(boat, 0.0), (mill, 0.0)]
    assert memories.fallback == "words alone, because of the engine died"
    diagnosis, _ = memories.examine(repair=True)
    assert (diagnosis.healthy, len(diagnosis.without_vector)) == (False, 1)
    model.well = True
    wait_for(lambda: found("The mill stands by the river")[1] > 0.9)
    assert memories.fallback is None
    wait_for(lambda: memories.store.own_embedder().state == "active")
    assert memories.examine(repair=False)[0].healthy
    memories.close()


class Late(Moody):
    """A model that is not even known at first."""

    well = False
    digest = property(lambda self: self._told("late:1"))  # type: ignore[assignment]
    width = property(lambda self: self._told(128))  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.well = False

    def _told(self, value: Any) -> Any:
        if not self.well:
            raise EmbedderFault("no such model")
        return value


@pytest.mark.parametrize("before", [0, 300], ids=["an empty file", "one with memories"])
def test_a_model_that_comes_late_takes_over_while_others_read_and_write(tmp_path: Path, before: int) -> None:
    memories, model = Memories(Config(home=tmp_path), retry_s=0.01), Late()
    memories.embedder = model
    memories.store.add_many([NewMemory(text=f"The boat {number} is blue") for number in range(before)])
    assert memories.fallback == "words and the built-in embedder, because of no such model"
    errors: list[BaseException] = []
    ending = Event()

    def busy(name: str) -> None:
        count = 0
        try:
            while not ending.is_set():
                count += 1
                memories.store.add_many([NewMemory(text=f"{name} {count} {more}") for more in range(1 + count % 90)])
                assert memories.search(Question(text=f"{name} {count}"))
        except BaseException as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    threads = [Thread(target=busy, args=(name,)) for name in ("heron", "otter")]
    for thread in threads:
        thread.start()
    sleep(0.3)
    model.well = True
    wait_for(lambda: memories.search(Question(text="heron 1")) and memories.fallback is None)
    sleep(0.3)
    ending.set()
    for thread in threads:
        thread.join()
    assert not errors
    wait_for(lambda: memories.search(Question(text="heron 1")) and memories.store.own_embedder().state == "active")
    found, fits = memories.examine(repair=False)
    assert (found.healthy, fits, memories.store.own_embedder().digest) == (True, True, "late:1")
    assert memories.search(Question(text="heron 1 0"))[0].why.cosine > 0.9
    gone = [memory.id for memory in memories.store.list(limit=3)]
    assert memories.forget(gone, None, None)[0].complete
    memories.close()
    with_model = Memories(Config(home=tmp_path))
    with_model.embedder = model
    assert with_model.examine(repair=False)[1], "the next start finds all in order"
    with_model.close()


def test_answers_say_what_the_memory_did_without(daemon: Daemon) -> None:
    """It has not the model that is set, which every way to ask tells; who recalls nothing hears nothing of it."""
    assert daemon.ask("POST", ROUTE, {"text": "The heron nests by the mill", "namespace": "told"}, unix=True).json
    model = daemon.echo("told.echo", 0)
    question = {"messages": [{"role": "user", "content": "Where does the heron nest?"}], "model": model}
    body = {**question, "memory": "told", "max_tokens": 400}
    whole = daemon.ask("POST", "/v1/chat/completions", body, unix=True).json
    assert whole["memory_fallback"].startswith("words and the built-in embedder")
    assert "missing" in whole["memory_fallback"]
    assert len(whole["memories"]) == 1
    streamed = daemon.ask("POST", "/v1/chat/completions", {**body, "stream": True}, unix=True)
    assert whole["memory_fallback"] in {event.get("memory_fallback") for event in events_of(streamed.content)}
    assert "memory_fallback" not in daemon.ask("POST", "/v1/chat/completions", question, unix=True).json
    told = f"memories were found by {whole['memory_fallback']}"
    asked = ("Where does the heron nest?", "-m", model, "--max-tokens", "60")
    plain = daemon.cli("ask", *asked, "--namespace", "told")
    assert told in plain.stderr, plain
    assert json.loads(daemon.cli("ask", *asked, "--namespace", "told", "--json").stdout)["memory_fallback"]
    many = daemon.cli("memory", "ask", *asked, "-n", "told")
    assert told in many.stderr, many
    assert told in daemon.cli("chat", "--plain", "-m", model, stdin="Where does the heron nest?\n").stdout
    chat = daemon.client.get("/localai/conversations")["conversations"][0]["id"]
    kept = daemon.client.get(f"/localai/conversations/{chat}")["messages"][-1]["figures"]
    assert kept["memory_fallback"] == whole["memory_fallback"]


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
    examined = daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json
    assert (examined["healthy"], bool(examined["fallback"])) == (True, True)
    process = daemon.process
    (daemon.home / "away.gguf").rename(model)
    wait_for(lambda: stats(daemon)["fallback"] is None)
    assert daemon.ask("POST", ROUTE, {"text": "The byre holds straw"}, unix=True).json["fallback"] is None
    for text in ("The barn holds hay", "The boat of Ana is blue", "The byre holds straw"):
        wait_for(lambda text=text: meaning(daemon, text) > 0.9)  # type: ignore[misc]
    wait_for(lambda: daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json["healthy"])
    assert stats(daemon)["embedder"].startswith("model:")
    assert daemon.process is process, "without a new start"
    again(daemon, "")
    wait_for(lambda: meaning(daemon, "The boat of Ana is blue") > 0.9)
    assert stats(daemon)["embedder"] == own
    assert daemon.ask("POST", f"{ROUTE}/doctor", {}, unix=True).json["healthy"]
