"""Recall: what is found, in which order, for which reason, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_store import rank, wording
from memory_store.embed import StaticEmbedder
from memory_store.errors import InvalidMemory
from memory_store.export import bring_in, from_jsonl, from_markdown, record_of, records, to_jsonl, to_markdown
from memory_store.plain_search import containing
from memory_store.rank import Turn, Weights
from memory_store.recall import Question, Recall
from memory_store.records import OWNER, Author, NewMemory
from memory_store.store import Store
from memory_store.trust import Trust

EMBEDDER = StaticEmbedder()
SCRIBE = Author(kind="agent", name="scribe")
PAGE = Author(kind="web", name="https://example.org")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db", embedder=EMBEDDER, clock=lambda: 1000.0)
    yield opened
    opened.close()


def texts(store: Store, text: str, **asked: object) -> list[str]:
    return [hit.memory.text for hit in Recall(store).search(Question(text=text, **asked))]  # type: ignore[arg-type]


def test_words_and_meaning_both_find(store: Store) -> None:
    store.add_many(
        [NewMemory(text=text) for text in ("The boiler code is ZX-81", "My dog is called Rex", "Tea at five")]
    )
    assert texts(store, "ZX-81", k=1) == ["The boiler code is ZX-81"]
    assert texts(store, "what name does the puppy have?", k=1) == ["My dog is called Rex"]
    first = Recall(store).search(Question(text="boiler code"))[0]
    assert first.why.words == 1.0
    assert "words 1.00" in first.why.sentence()


def test_neighbouring_turns_lend_to_each_other(store: Store) -> None:
    said = (
        "Which restaurant did you like best in Lisbon?",
        "It was the Old Tram, near the river.",
        "Nice weather today.",
    )
    store.add_many([NewMemory(text=text, episode="e", position=n) for n, text in enumerate(said)])
    store.add_many([NewMemory(text=f"note {n} about cheese") for n in range(30)])
    assert texts(store, "favourite restaurant in Lisbon", k=2) == list(said[:2])
    assert Recall(store, weights=Weights(turns=0.0)).search(Question(text="restaurant Lisbon"))[0].why.turns == 0


def test_turns_of_another_namespace_lend_nothing(store: Store) -> None:
    store.add(NewMemory(text="The safe is behind the mirror", episode="e", position=0, namespace="private"))
    store.add(NewMemory(text="Where is the safe?", episode="e", position=1))
    assert texts(store, "where is the safe?") == ["Where is the safe?"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, {"now", "ever"}),
        ({"at": 50.0}, {"old", "ever"}),
        ({"past": True}, {"now", "ever", "old", "replaced"}),
        ({"since": 200.0}, {"now"}),
        ({"until": 200.0}, {"ever"}),
        ({"namespace": "other"}, {"other"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_time_validity_and_namespace(store: Store, asked: dict[str, object], found: set[str]) -> None:
    def add(name: str, **fields: object) -> str:
        return store.add(NewMemory(text=f"the mayor is {name}", **fields)).id  # type: ignore[arg-type]

    add("old", time=10.0, valid_from=0.0, valid_to=100.0)
    add("now", time=300.0, valid_from=100.0)
    add("ever", time=20.0)
    add("other", namespace="other")
    store.set_state(add("replaced", time=15.0), "superseded")
    store.set_state(add("doubtful", time=16.0), "quarantined")
    assert {text.split()[-1] for text in texts(store, "who is the mayor?", **asked)} == found


def test_a_narrow_time_is_found_among_many(store: Store) -> None:
    store.add_many([NewMemory(text=f"the bus was late, case {n}", time=float(n)) for n in range(1500)])
    assert len(texts(store, "late bus", k=5, since=700.0, until=703.0)) == 3


def test_distrust_demotes_and_nothing_promotes(store: Store) -> None:
    trust = Trust(store)
    good = store.add(NewMemory(text="The ferry leaves at nine", author=OWNER)).id
    bad = store.add(NewMemory(text="The ferry leaves at seven", author=PAGE)).id
    trust.judge(store.get(bad), OWNER, "refuted")
    hits = Recall(store, trust).search(Question(text="when does the ferry leave?"))
    assert [hit.memory.id for hit in hits] == [good, bad]
    assert all(0 < hit.trust <= 1 and hit.score <= hit.why.relevance for hit in hits)
    assert hits[1].trust < 0.2
    assert "from the web" in hits[1].why.notes


def test_the_same_question_has_the_same_answer(tmp_path: Path, store: Store) -> None:
    store.add_many([NewMemory(text=f"item {n % 7} of list {n % 5}", time=float(n % 3), id=str(n)) for n in range(200)])

    def asked() -> list[tuple[str, float]]:
        return [(hit.memory.id, hit.score) for hit in Recall(store).search(Question(text="list item 3", k=20))]

    first = asked()
    assert all(asked() == first for _ in range(30))
    again = Store(tmp_path / "memory.db", embedder=EMBEDDER, clock=lambda: 1000.0)
    assert [(h.memory.id, h.score) for h in Recall(again).search(Question(text="list item 3", k=20))] == first
    again.close()


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "a OR",
        "NEAR(",
        "x:y *",
        "col:x AND NOT (",
        "^",
        "'; DROP TABLE memory; --",
        "-- ",
        "NULL",
        "{}",
        "a\0b",
        "é",
    ],
)
def test_full_text_syntax_in_a_question_is_text(store: Store, text: str) -> None:
    store.add(NewMemory(text="a plain note, x and y"))
    Recall(store).search(Question(text=text))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \0\n"}, "empty"),
        ({"text": "a\ud800"}, "surrogate"),
        ({"text": "a", "k": 0}, "0 hits"),
        ({"text": "a", "k": 10**6}, "1000000 hits"),
        ({"text": "a", "at": float("nan")}, "finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_asked(store: Store, asked: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidMemory, match=words) as refused:
        Recall(store).search(Question(**asked))  # type: ignore[arg-type]
    assert refused.value.hint


def test_a_question_without_vector_or_of_ten_megabytes(store: Store) -> None:
    store.add(NewMemory(text="ᚠᚢᚦᚨᚱᚲ and runes"))
    assert texts(store, "ᚠᚢᚦᚨᚱᚲ") == ["ᚠᚢᚦᚨᚱᚲ and runes"]
    assert texts(store, "runes " * 2_000_000) == ["ᚠᚢᚦᚨᚱᚲ and runes"]


def test_fusion_by_hand() -> None:
    parts = rank.fuse({1: 4.0, 2: 2.0}, {2: 0.9, 3: 0.5, 1: 0.1}, 0.5)
    # The cube root of half of each cube: of 1 and 0, of 0.5 and 1, of 0 and 0.5.
    assert {num: round(part.score, 4) for num, part in parts.items()} == {1: 0.7937, 2: 0.8255, 3: 0.3969}
    lent = rank.lend(parts, [Turn(1, "e", 0), Turn(2, "e", 1), Turn(9, "e", 2)], Weights(turns=0.4))
    assert round(lent[1].score, 4) == round(0.7937 + 0.2 * 0.8255, 4)
    assert round(lent[9].score, 4) == round(0.2 * 0.8255, 4)
    assert rank.order(lent) == [2, 1, 3, 9]


def test_words_count_by_how_the_question_is_put() -> None:
    keywords, spoken = "restaurant lisbon", "where was it that we had been to in Lisbon"
    alike, outstanding = [1.0] * 20, [10.0, *[1.0] * 19]
    assert wording.share(spoken, alike) < wording.share(keywords, alike) < wording.share(keywords, outstanding) < 1
    assert wording.share(keywords, []) == wording.share(keywords, [3.0]) < wording.share(f"{keywords} tram", [3.0])
    words, vectors = {1: 1.0, 2: 0.5}, {1: 0.2, 2: 0.3, 3: 0.9}
    by_keywords = rank.fuse(words, vectors, wording.share(keywords, words.values()))
    by_meaning = rank.fuse(words, vectors, wording.share(spoken, words.values()))
    assert rank.order(by_keywords)[0] == 1
    assert rank.order(by_meaning)[0] == 3
    assert by_meaning[1].share < 0.5 < by_keywords[1].share


def test_an_export_comes_back_the_same(tmp_path: Path, store: Store) -> None:
    trust = Trust(store)
    said = store.add(NewMemory(text="ends with ``` and --> and\r\n", tags=("a>b",), episode="e", position=1, time=5.0))
    store.add(NewMemory(text="a fact", kind="derived", derived_from=(said.id,), author=SCRIBE))
    page = store.add(
        NewMemory(text="```python\nprint(1)\n```\n<!-- memory {} -->", author=PAGE, valid_to=9.0), state="contested"
    )
    trust.judge(store.get(page.id), OWNER, "refuted")
    exported = [record for _, record in records(store)]
    for number, back in enumerate(
        (list(from_jsonl("".join(to_jsonl(exported)).split("\n"))), list(from_markdown("".join(to_markdown(exported)))))
    ):
        other = Store(tmp_path / f"other{number}.db", embedder=EMBEDDER, clock=lambda: 2000.0)
        assert back == exported
        assert bring_in(other, back) == 3
        assert [record for _, record in records(other)] == exported
        assert bring_in(other, back) == 0
        assert Trust(other).standing(PAGE).refuted == pytest.approx(trust.standing(PAGE).refuted, rel=1e-3)
        other.close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1 is no JSON"),
        (['{"format": "localai-memory", "version": 99}'], "newer"),
        (["[]"], "line 1 is no memory"),
        (['{"id": "x"}'], "line 1 is no memory"),
        (['{"format": "localai-memory", "version": 1}', '{"id": 3}'], "line 2"),
    ],
)
def test_a_foreign_file_is_refused(lines: list[str], words: str) -> None:
    with pytest.raises(InvalidMemory, match=words):
        list(from_jsonl(lines))


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": float("nan")},
        {"recorded": float("inf")},
        {"position": 2**70},
        {"position": -1},
        {"text": "half \ud800"},
        {"evidence": [{"judge_kind": "person", "judge": "x", "verdict": "hated", "weight": 1, "time": 1}]},
        {"evidence": [{"judge_kind": "person", "judge": "x", "verdict": "refuted", "weight": -9e99, "time": 1}]},
    ],
    ids=["nan", "infinite", "too far", "negative", "surrogate", "verdict", "weight"],
)
def test_a_record_that_no_export_holds_is_refused_with_its_place(store: Store, wrong: dict[str, Any]) -> None:
    store.add(NewMemory(text="one"))
    whole = json.loads(list(to_jsonl(record for _, record in records(store)))[1])
    assert record_of(whole, "it").text == "one"
    with pytest.raises(InvalidMemory, match="line 7 is no memory"):
        record_of({**whole, **wrong}, "line 7")


@pytest.mark.parametrize(
    "last",
    [
        {"text": " "},
        {"evidence": [{"judge_kind": "person", "judge": "", "verdict": "refuted", "weight": 1, "time": 1}]},
    ],
    ids=["empty text", "nameless judge"],
)
def test_records_come_in_together_or_not_at_all(tmp_path: Path, store: Store, last: dict[str, Any]) -> None:
    store.add_many([NewMemory(text="one"), NewMemory(text="two")])
    good, other = (json.loads(line) for line in list(to_jsonl(record for _, record in records(store)))[1:])
    fresh = Store(tmp_path / "fresh.db", embedder=EMBEDDER)
    with pytest.raises(InvalidMemory):
        bring_in(fresh, [record_of(value, "it") for value in (good, {**other, "state": "contested", **last})])
    assert fresh.list() == ()
    fresh.close()


def test_a_cut_export_is_refused(store: Store) -> None:
    store.add_many([NewMemory(text="one"), NewMemory(text="two")])
    whole = "".join(to_markdown(record for _, record in records(store)))
    with pytest.raises(InvalidMemory, match="no whole export"):
        list(from_markdown(whole[:-6]))


def test_forgetting_by_words_needs_all_of_them(store: Store) -> None:
    ids = [store.add(NewMemory(text=text)).id for text in ("Ana likes tea", "Ana likes coffee", "tea")]
    assert containing(store, "tea ana") == (ids[0],)
    with pytest.raises(InvalidMemory, match="no word"):
        containing(store, "?!")


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("news", "The new bridge", False),
        ("university", "A universal key", False),
        ("car", "The cargo ship", False),
        ("cafe", "Nous allons au Cafe\u0301 du port", True),
        ("Straße", "Die STRASSE ist gesperrt", True),
        ("snake", "snake_case is a style", True),
        ("東京", "私は東京に住んでいます", True),
        ("iPhone15", "昨日iPhone15を買った", True),
        ("서울", "서울에서 지하철을 탔습니다", True),
        ("เตียง", "แมวนอนบนเตียงสีน้ำเงิน", True),
        ("السرير", "القط ينام على السَّريرِ", True),
        ("हिन्द", "दिल्ली में हिन्दी", False),
    ],
)
def test_forgetting_by_words_takes_the_words_themselves(store: Store, query: str, text: str, expected: bool) -> None:
    made = store.add(NewMemory(text=text))
    assert containing(store, query) == ((made.id,) if expected else ())
