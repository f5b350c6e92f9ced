"""The lexical index against BM25 written out, over real stores."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memory_store import bm25, postings
from memory_store.behind import LEFT_TO_SEARCH
from memory_store.doctor import index_anew
from memory_store.erase import forget
from memory_store.errors import InvalidMemory
from memory_store.lexical import LexicalIndex
from memory_store.plain_search import PlainWords, containing
from memory_store.postings import K1, B, segment, without
from memory_store.records import Author, NewMemory
from memory_store.store import Store
from memory_store.words import Words
from memory_store.words_file import FORMAT

COMMON = [f"common{number}" for number in range(5)]
RARE = [f"rare{number}" for number in range(400)]


def texts(count: int) -> list[str]:
    draw = random.Random(3)
    return [
        " ".join(draw.choices(COMMON, k=draw.randint(3, 20)) + draw.choices(RARE, k=draw.randint(0, 5)))
        for _ in range(count)
    ]


def written_out(corpus: list[list[str]], query: list[str], k: int) -> list[int]:
    mean = sum(map(len, corpus)) / len(corpus)
    scores = dict[int, float]()
    for term in dict.fromkeys(query):
        frequency = sum(term in terms for terms in corpus)
        weight = math.log1p((len(corpus) - frequency + 0.5) / (frequency + 0.5))
        for number, terms in enumerate(corpus, 1):
            if often := terms.count(term):
                part = weight * (K1 + 1) * often / (often + K1 * (1 - B + B * len(terms) / mean))
                scores[number] = scores.get(number, 0) + part
    return sorted(scores, key=lambda number: (-round(scores[number], 4), number))[:k]


def test_frequent_terms_are_laid_out_by_text_and_score_the_same() -> None:
    corpus = [text.split() for text in texts(postings.LEAST_TEXTS)]
    (part,) = postings.weighed([postings.segment(range(1, len(corpus) + 1), corpus)])
    assert sorted(part.spread) == sorted(part.vocabulary[term] for term in COMMON)
    draw = random.Random(5)
    for _ in range(5):
        query = [*draw.sample(RARE, 3), *draw.sample(COMMON, 4)]
        nums, scores = bm25.search([part], query, 50)
        plain_nums, plain_scores = bm25.search([replace(part, spread={})], query, 50)
        assert nums.tolist() == plain_nums.tolist()
        assert scores.tolist() == plain_scores.tolist()


@pytest.mark.parametrize("batch", [1, 100, 3000], ids=str)
def test_scores_are_those_of_bm25(tmp_path: Path, batch: int) -> None:
    store, corpus = Store(tmp_path / "m.db"), texts(400 if batch == 1 else 3000)
    index = LexicalIndex(store)
    for start in range(0, len(corpus), batch):
        store.add_many([NewMemory(text=t, id=f"{start}-{n}") for n, t in enumerate(corpus[start : start + batch])])
    words = Words()
    terms, draw = words.terms(corpus), random.Random(9)
    for _ in range(15):
        query = " ".join(draw.sample(RARE, 2) + draw.sample(COMMON, 2))
        found, scores = index.search("default", query, 10)
        true = written_out(terms, words.terms([query])[0], 10)
        assert len(set(found.tolist()) & set(true)) >= min(10, len(true)) - 1
        assert found[0] == true[0]
        assert (scores > 0).all()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The function parseHTMLPage reads it", "html"),
        ("The function parseHTMLPage reads it", "parseHTMLPage"),
        ("set max_token_count to 5", "token"),
        ("set max_token_count to 5", "maxTokenCount count"),
        ("the walkers were walking", "walk"),
        ("東京都の天気は晴れです", "天気"),
        ("Le café était fermé", "cafe etait"),
        ("ติดตั้งโปรแกรม", "โปรแกรม"),
        ("who will do this", "who will"),
        ("error E1234 at start", "e1234"),
        ("🦊🦊 🎈", "🦊"),
        ("Party on Friday🎉!", "🎉"),
        ("Party on Friday🎉!", "friday"),
        ("thumbs 👍🏽", "👍"),
        ("👍", "👍🏿 please"),
        ("🇫🇷 and 🇮🇹", "🇫🇷"),
        ("❤️", "❤"),
        ("§ 823 applies", "§"),
        ("it costs 5 €", "€"),
        (":-)", ":-)"),
        ("___", "___"),
        ("Le re\u0301sume\u0301 nai\u0308f", "résumé"),
        ("Le résumé naïf", "nai\u0308f"),
        ("Die Straße ist gesperrt", "STRASSE"),
        ("桜が咲いています", "桜"),
        ("القِطُّ يَنامُ", "القط"),
        ("הַסֵּפֶר עַל", "הספר"),
        ("दिल्ली में हिन्दी", "हिन्दी"),
        ("서울에서 탔습니다", "서울"),
        ("五" * 300 + "水曜日", "水曜日"),
        ("a ≠ b", "≠"),
    ],
    ids=str,
)
def test_finds(tmp_path: Path, text: str, query: str) -> None:
    store = Store(tmp_path / "m.db")
    store.add_many([NewMemory(text=text), NewMemory(text="something else entirely")])
    assert LexicalIndex(store).search("default", query, 5)[0].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "query"),
    [("हनद", "हिन्दी"), ("が咲いています", "かさ"), ("a = b", "≠"), ("가나", "가방")],
    ids=["vowel signs", "voiced kana", "struck out", "other syllable"],
)
def test_finds_nothing_else(tmp_path: Path, text: str, query: str) -> None:
    store = Store(tmp_path / "m.db")
    store.add(NewMemory(text=text))
    assert LexicalIndex(store).search("default", query, 5)[0].tolist() == []


@pytest.mark.parametrize(
    ("query", "found"),
    [("🎉", [1, 2]), ("🎉 friday", [1, 2]), ("🦊", [2, 3]), ("🇮🇹", []), ("🇫🇷", [4]), ("friday", [1]), (":-)", [])],
)
def test_symbols_are_found_with_and_without_the_index(tmp_path: Path, query: str, found: list[int]) -> None:
    store = Store(tmp_path / "m.db")
    texts = ("Party on Friday🎉!", "🎉 🎈 🦊", "🦊🦊", "🇫🇷 and 🇺🇸 :-) fine", "plain words - and (marks):")
    store.add_many([NewMemory(text=text) for text in texts])
    assert sorted(LexicalIndex(store).search("default", query, 5)[0].tolist()) == found
    assert sorted(PlainWords(store).search("default", query, 5)[0].tolist()) == found
    nums = {memory.id: memory.num for memory in store.list()}
    if found:
        alike = [num for num in found if all(each in texts[num - 1].casefold() for each in query.split())]
        assert [nums[each] for each in containing(store, query)] == alike


def test_an_index_of_before_symbols_were_terms_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    store.add(NewMemory(text="🦊🦊"))
    index = LexicalIndex(store, tmp_path / "index")
    index._segments[1] = (segment([1], [[]]),)
    index._unsaved += 1
    index.close()
    (path,) = index.files()
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["meta"] = np.array(str(changed["meta"]).replace(f'"format": {FORMAT}', '"format": 1'))
    np.savez(path, **changed)
    again = LexicalIndex(store, tmp_path / "index")
    assert again.search("default", "🦊", 5)[0].tolist() == [1]
    again.close()


@pytest.mark.parametrize("query", ['"', "a AND (b", "NEAR(x", "*", "col:x", "^", "", "\0", "\ud800", "'; --"], ids=repr)
def test_syntax_is_only_text(tmp_path: Path, query: str) -> None:
    store = Store(tmp_path / "m.db")
    store.add(NewMemory(text="plain words"))
    assert len(LexicalIndex(store).search("default", query, 5)[0]) == 0


def test_namespaces_writes_and_erasure(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    index = LexicalIndex(store)
    first = store.add(NewMemory(text="the zebra sleeps", namespace="a"))
    second = store.add(NewMemory(text="the zebra eats grass", namespace="b"))
    assert index.search("a", "zebra", 5)[0].tolist() == [first.num]
    assert index.search("b", "zebra", 5)[0].tolist() == [second.num]
    assert forget(store, ids=[first.id], derived=[index]).complete
    assert len(index.search("a", "zebra", 5)[0]) == 0
    assert "zebra" not in {term for parts in index._segments[1] for term in parts.vocabulary}


def test_equal_scores_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    store.add_many([NewMemory(text="same words here", id=f"id-{number}") for number in range(40)])
    index = LexicalIndex(store)
    assert index.search("default", "same words", 10)[0].tolist() == list(range(1, 11))
    with pytest.raises(InvalidMemory):
        index.search("default", "same", 0)


def test_scores_do_not_depend_on_how_long_texts_were_at_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    grown = LexicalIndex(store)
    for length in (1, 2, 40, 400):
        store.add_many([NewMemory(text="zebra " + f"w{length} " * length, id=f"{length}-{n}") for n in range(50)])
    rebuilt = LexicalIndex(store)
    for query in ("zebra", "zebra w400", "w1 w2 w40"):
        one, other = (index.search("default", query, 60) for index in (grown, rebuilt))
        assert one[0].tolist() == other[0].tolist()
        assert one[1].tolist() == other[1].tolist()
    assert grown.search("default", "zebra", 1)[0].tolist() == [1], "the shortest text says most by one word"


def test_a_restart_reads_the_file_and_answers_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    store.add_many([NewMemory(text=text, id=str(number)) for number, text in enumerate(texts(2000))])
    index = LexicalIndex(store, tmp_path / "index")
    asked = [f"{RARE[n]} {COMMON[n % 5]}" for n in range(20)]
    before = [index.search("default", query, 10) for query in asked]
    other = LexicalIndex(store, tmp_path / "index")
    assert not other.files(), "one program at a time writes the file"
    other.close()
    index.close()
    store.add(NewMemory(text="zebra"))
    opened = LexicalIndex(store, tmp_path / "index")
    assert opened._segments[1][0].vocabulary == index._segments[1][0].vocabulary
    assert opened.search("default", "zebra", 1)[0].tolist() == [2001]
    rebuilt = LexicalIndex(store)
    for query, (nums, _) in zip(asked, before, strict=True):
        assert opened.search("default", query, 10)[0].tolist() == nums.tolist()
        assert rebuilt.search("default", query, 10)[0].tolist() == nums.tolist()
    opened.close()
    opened.files()[0].write_bytes(b"PK torn")
    again = LexicalIndex(store, tmp_path / "index")
    assert again.search("default", "zebra", 1)[0].tolist() == [2001]


def test_a_search_takes_in_what_writers_left_and_segments_do_not_pile_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.db")
    index = LexicalIndex(store)
    for n in range(70):
        added = store.add(NewMemory(text=f"sign{n} {' '.join(RARE[n : n + 3])}"))
        assert index._behind.seq < store.written, "left to the search"
        assert index.search("default", f"sign{n}", 1)[0].tolist() == [added.num]
    assert len(index._segments[1]) <= 8
    store.add_many([NewMemory(text=f"many{n}") for n in range(LEFT_TO_SEARCH + 1)])
    assert index._behind.seq == store.written, "too many to be left"
    store.write(lambda connection: store.source_within(connection, Author(kind="agent", name="scribe")))
    store.add(NewMemory(text="the last one"))
    store.set_tags(store.list(limit=1)[0].id, ("tea",))
    assert index._behind.seq == store.written, "other writes leave nothing"
    index.close()
    store.close()


@pytest.mark.parametrize("part", ["starts", "docs", "times", "lengths", "nums"])
def test_an_index_whose_parts_do_not_fit_is_made_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    store = Store(tmp_path / "m.db")
    store.add_many([NewMemory(text=text, id=str(number)) for number, text in enumerate(texts(50))])
    index = LexicalIndex(store, tmp_path / "index")
    wanted = index.search("default", COMMON[0], 10)[0].tolist()
    index.close()
    (path,) = index.files()
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed[f"1.0.{part}"] = changed[f"1.0.{part}"][:-1] if part != "docs" else changed[f"1.0.{part}"] + 1000
    np.savez(path, **changed)
    again = LexicalIndex(store, tmp_path / "index")
    assert "damaged and is made again" in caplog.text
    assert again.search("default", COMMON[0], 10)[0].tolist() == wanted
    assert again.fits()
    again.close()


@pytest.mark.parametrize("lost", ["a text", "a word"])
def test_an_index_that_lacks_something_does_not_fit_until_it_is_made_anew(tmp_path: Path, lost: str) -> None:
    store = Store(tmp_path / "m.db")
    store.add_many([NewMemory(text=text, id=str(number)) for number, text in enumerate(texts(50))])
    index = LexicalIndex(store)
    assert index.fits()
    (part,) = index._segments[1]
    hollow = without(part, np.array([7])) if lost == "a text" else replace(part, vocabulary={"none": 0})
    index._segments[1] = (hollow,)
    assert not index.fits()
    index_anew(store)
    assert index.fits()
    index.close()
