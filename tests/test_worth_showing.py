"""Which hits a model is shown: as few as answer, all that several facts need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from localai.bench.memory_size import facts
from localai.worth_showing import Passage, worth_showing
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


def passages(store: Store, question: str) -> list[Passage]:
    return worth_showing(question, Recall(store, Trust(store)).search(Question(text=question, k=16)))


def shown(store: Store, question: str) -> list[str]:
    return [passage.hit.memory.text for passage in passages(store, question)]


def quoted(store: Store, question: str) -> list[list[str]]:
    """Of each memory what is shown of it, [] for all."""
    return [[each.hit.memory.text[a:b] for a, b in each.spans] for each in passages(store, question)]


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


def test_of_a_paragraph_of_look_alikes_the_one_that_answers_is_shown(store: Store) -> None:
    paragraphs = [FACTS[start : start + 10] for start in range(0, 200, 10)]
    store.add_many([NewMemory(text=" ".join(fact.text for fact in each)) for each in paragraphs])
    for number, facts_ in enumerate(paragraphs):
        fact = facts_[number % 10]
        for way in (ONE, OTHER):
            best = passages(store, way.format(**fact.about))[0]
            told = " ".join(best.hit.memory.text[a:b] for a, b in best.spans)
            assert fact.text in told
            assert told.count("The number of") <= 4
    one, other = paragraphs[3][2], paragraphs[3][7]
    both = " ".join(quoted(store, f"{OTHER.format(**one.about)} {OTHER.format(**other.about)}")[0])
    assert one.text in both
    assert other.text in both


BRISK = "The lighthouse of Brisk was built by Ana in 1820. It is 40 metres high. A ticket costs 7 crowns."
LUND = "The lighthouse of Lund was built by Ivo in 1911. It is 60 metres high. A ticket costs 9 crowns."
ODDE = "The lighthouse of Odde was built by Mia in 1877. It is 50 metres high. A ticket costs 5 crowns."


@pytest.mark.parametrize(
    "question",
    ["How high is the lighthouse of Lund?", "What does a ticket for the lighthouse of Lund cost?"],
)
@pytest.mark.parametrize("text", [f"{BRISK} {ODDE} {LUND}", f"{LUND} {BRISK} {ODDE}"], ids=["behind", "before"])
def test_what_follows_a_sentence_goes_with_it(store: Store, text: str, question: str) -> None:
    store.add(NewMemory(text=text))
    assert quoted(store, question) == [[LUND]]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (f"{BRISK} {ODDE} {LUND}", "Tell me about lighthouses"),
        (f"{BRISK} {LUND}", "How high are the lighthouses of Brisk and Lund?"),
        ("The lighthouse of Brisk was built in 1820. The lighthouse is white.", "What colour has Brisk's lighthouse?"),
        ("def brisk():\n    return 'The mast of Brisk. The mast of Lund.'", "What is the mast of Lund?"),
        ("Nothing of that. Nor of this.", "How high is the lighthouse of Lund?"),
        ("The mast. " * 2000 + "The mast of Lund is red. The mast of Brisk is blue.", "Which colour has Lund's mast?"),
    ],
    ids=["broad", "both", "the answer in other words", "code", "nothing", "far too long"],
)
def test_a_text_stays_whole_where_nothing_in_it_clearly_misleads(store: Store, text: str, question: str) -> None:
    store.add(NewMemory(text=text, episode="e", position=0))
    hits = Recall(store, Trust(store)).search(Question(text=question, k=16))
    assert all(passage.spans == () for passage in worth_showing(question, hits))


def test_of_a_list_the_item_is_shown_under_its_head(store: Store) -> None:
    items = [
        f"- The key of the {place} has the number {100 + at}." for at, place in enumerate(("mill", "barn", "boat"))
    ]
    store.add(NewMemory(text="Keys that were lent:\n\n" + "\n".join(items)))
    question = "Which number has the key of the boat?"
    assert quoted(store, question) == [["Keys that were lent:", items[2]]]


def test_a_distrusted_paragraph_crowds_out_nothing(store: Store) -> None:
    honest = f"{BRISK} The stairs are steep. Wear shoes."
    store.add(NewMemory(text=honest, author=OWNER))
    store.add(NewMemory(text="How high is the lighthouse of Brisk at night? It is 9 metres high.", author=PAGE))
    assert honest in shown(store, "How high is the lighthouse of Brisk at night?")
