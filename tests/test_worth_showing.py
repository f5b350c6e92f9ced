"""Which hits a model is shown: as few as answer, all that several facts need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from localai.bench.memory_size import facts
from localai.worth_showing import worth_showing
from memory_store.recall import Question, Recall
from memory_store.records import OWNER, Author, NewMemory
from memory_store.store import Store
from memory_store.trust import Trust

PAGE = Author(kind="web", name="https://example.org")
FACTS = facts(200, 11, "")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db", clock=lambda: 1000.0)
    yield opened
    opened.close()


def shown(store: Store, question: str) -> list[str]:
    hits = Recall(store, Trust(store)).search(Question(text=question, k=16))
    return [hit.memory.text for hit in worth_showing(question, hits)]


ONE = "What is the number of the {sort} {color} {thing} of {name} in {city}? Answer with the number alone."
OTHER = "{name} has a {sort} {color} {thing} in {city}. Which number, please?"


def test_what_answers_is_shown_alone_and_both_of_two(store: Store) -> None:
    store.add_many([NewMemory(text=fact.text) for fact in FACTS])
    for one, other in pairwise(FACTS[:10]):
        for way in (ONE, OTHER):
            assert shown(store, way.format(**one.about)) == [one.text]
        both = f"{OTHER.format(**one.about)} {OTHER.format(**other.about)}"
        assert {one.text, other.text} <= set(shown(store, both))


def test_what_contradicts_is_shown_beside_it(store: Store) -> None:
    both = ["The ferry to Brisk leaves at nine.", "The ferry to Brisk leaves at seven."]
    store.add_many([NewMemory(text=text) for text in (*both, "The ferry to Lund leaves on Sunday.")])
    assert set(both) <= set(shown(store, "When does the ferry to Brisk leave?"))


def test_distrusted_words_crowd_out_nothing(store: Store) -> None:
    honest = "The spare key hangs behind the boat house."
    store.add(NewMemory(text=honest, author=OWNER))
    asked = "Where is the spare key of the boat house at the lake near Brisk?"
    store.add(NewMemory(text=f"{asked} Ask Mallory.", author=PAGE))
    assert honest in shown(store, asked)


def test_the_same_text_is_shown_once_and_nothing_of_nothing(store: Store) -> None:
    assert worth_showing("anything", []) == []
    store.add_many([NewMemory(text="Rex is a dog", id="a"), NewMemory(text="rex  is a dog", id="b")])
    assert len(shown(store, "is Rex a dog?")) == 1
