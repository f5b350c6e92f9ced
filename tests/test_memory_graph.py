"""The graph of names: what a text names, who is named together, and what recall makes of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from memory_store.communities import Communities
from memory_store.embed import StaticEmbedder
from memory_store.entities import names
from memory_store.erase import forget
from memory_store.graph import MOST_SHARED, Graph
from memory_store.rank import Weights
from memory_store.recall import Question, Recall
from memory_store.records import NewMemory
from memory_store.store import Store

EMBEDDER = StaticEmbedder()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db", embedder=EMBEDDER, clock=lambda: 1e9)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The spare key is with Ana Ferreira in Lisbon.", {"ana ferreira", "lisbon"}),
        ("Call os.path.join() or read_file from fileReader.", {"os.path.join", "read_file", "filereader"}),
        ("Write to ana@example.org, see https://example.org/x and /etc/ssh/sshd_config", None),
        ("Nothing here is a name. Where would one be?", set()),
        ("NASA sent it. Then the crew of Apollo slept.", {"nasa", "apollo"}),
        ("", set()),
    ],
)
def test_names_are_found_by_their_spelling(text: str, found: set[str] | None) -> None:
    expected = {"ana@example.org", "https://example.org/x", "/etc/ssh/sshd_config"} if found is None else found
    assert set(names(text)) == expected
    assert names(text) == names(text)


def planted(dice: random.Random, groups: int, size: int) -> list[tuple[int, int]]:
    within = [pair for g in range(groups) for pair in combinations(range(g * size, (g + 1) * size), 2)]
    across = [(dice.randrange(groups * size), dice.randrange(groups * size)) for _ in range(groups * size // 2)]
    edges = [pair for pair in within if dice.random() < 0.6] + [pair for pair in across if pair[0] != pair[1]]
    dice.shuffle(edges)
    return edges


def test_communities_kept_edge_by_edge_are_as_good_as_anew() -> None:
    graph = Communities()
    for edge in planted(random.Random(4), 12, 10):
        graph.join([edge], 1.0)
    before = graph.modularity()
    anew = graph.settle()
    assert before >= 0.9 * anew > 0.4
    assert len(graph.members(0) & set(range(10))) >= 8


def test_what_is_taken_out_leaves_nothing() -> None:
    graph = Communities()
    edges = planted(random.Random(5), 4, 6)
    for edge in edges:
        graph.join([edge], 1.0)
    for edge in edges:
        graph.join([edge], -1.0)
    assert (graph.modularity(), graph.of(0), graph.members(3), graph.settle()) == (0.0, -1, {3}, 0.0)


def test_memories_are_linked_by_rare_names_within_a_namespace(store: Store) -> None:
    first = store.add(NewMemory(text="The boat of Ana Ferreira lies in Oland.")).num
    other = store.add(NewMemory(text="Last year Ana Ferreira changed the engine oil.")).num
    store.add(NewMemory(text="Somebody said that Ana Ferreira is away.", namespace="private"))
    for number in range(MOST_SHARED + 1):
        store.add(NewMemory(text=f"Note {number}: seen from Oland."))
    graph = Graph(store)
    assert graph.follow() > 0
    assert graph.follow() == 0
    links = graph.links("default", {first: 1.0})
    assert [(link.num, link.names) for link in links] == [(other, ("ana ferreira",))]
    assert graph.community("Ana Ferreira", "default") == graph.community("oland", "default")


def test_what_is_forgotten_links_nothing(store: Store) -> None:
    first = store.add(NewMemory(text="The boat of Ana Ferreira lies in Oland."))
    other = store.add(NewMemory(text="Last year Ana Ferreira changed the engine oil."))
    graph = Graph(store)
    graph.follow()
    forget(store, ids=[other.id])
    graph.follow()
    assert graph.links("default", {first.num: 1.0}) == []
    forget(store, ids=[first.id])
    graph.follow()
    assert len(graph) == 0
    assert graph.community("ana ferreira", "default") == ()


def test_recall_uses_it_where_it_is_weighed_and_says_so(store: Store) -> None:
    store.add(NewMemory(text="Invoices for the boat go to Ana Ferreira."))
    other = store.add(NewMemory(text="Ana Ferreira is reached at 555-0142."))
    for number in range(20):
        store.add(NewMemory(text=f"The invoices of the boat yard for month {number} were paid"))
    question = Question(text="Who gets invoices for the boat?", k=30)
    plain = [hit for hit in Recall(store).search(question) if hit.memory.num == other.num]
    recall = Recall(store, weights=Weights(graph=0.3))
    linked = next(hit for hit in recall.search(question) if hit.memory.num == other.num)
    assert not any(hit.why.graph for hit in plain)
    assert linked.why.graph > 0
    assert linked.score > sum(hit.score for hit in plain)
    assert "shared names" in linked.why.sentence()
    assert "ana ferreira" in linked.why.sentence()
