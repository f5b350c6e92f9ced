"""The answer cache: what asks the same, what does not, what is never cached, and what forgetting does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localai.answer_cache import RULES
from localai.answer_file import AnswerFile, Kept
from localai.same_question import canonical, category
from memory_store.embed import StaticEmbedder
from tests import held_out_pairs
from tests.daemon_fixture import Daemon, events_of, running, wait_for
from tests.question_pairs import DIFFERENT, SAME

EMBEDDER = StaticEmbedder()


def hits(left: str, right: str) -> bool:
    """Would the answer to `left` be given to `right`, in an otherwise equal request?"""
    kind = category(right)
    if "never" in (kind, category(left)) or canonical(left) != canonical(right):
        return False
    one, other = EMBEDDER.embed([left, right])
    return float(one @ other) >= RULES[kind].likeness


@pytest.mark.parametrize("kind", DIFFERENT)
def test_look_alikes_are_told_apart(kind: str) -> None:
    pairs = DIFFERENT[kind] + [(right, left) for left, right in DIFFERENT[kind]]
    assert [pair for pair in pairs if hits(*pair)] == []


def test_look_alikes_that_nothing_was_tuned_to_are_told_apart() -> None:
    pairs = held_out_pairs.DIFFERENT + [(right, left) for left, right in held_out_pairs.DIFFERENT]
    assert [pair for pair in pairs if hits(*pair)] == []


def test_look_alikes_are_many_and_vectors_alone_mix_them() -> None:
    pairs = [pair for kind in DIFFERENT.values() for pair in kind]
    assert len(pairs) >= 150
    cosines = [float(one @ other) for one, other in (EMBEDDER.embed(pair) for pair in pairs)]
    assert float(np.mean(np.array(cosines) >= 0.9)) > 0.5


def test_paraphrases_are_found() -> None:
    assert sum(hits(*pair) for pair in SAME) >= 0.75 * len(SAME)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What is the capital of France?", "fact"),
        ("How do I boil an egg?", "howto"),
        ("Write a poem about rain", "text"),
        ("What does `ls -l` do?", "code"),
        ("What is the weather in Oslo?", "never"),
        ("Who is the current president?", "never"),
        ("Where did I put my keys?", "never"),
        ("Tell me another joke", "never"),
    ],
)
def test_questions_have_a_kind(text: str, kind: str) -> None:
    assert category(text) == kind


def kept(question: str, context: bytes = b"c", **fields: Any) -> Kept:
    vector = EMBEDDER.embed([question])[0]
    values = {"text": f"answer to {question}", "made": time.time(), "category": "fact", **fields}
    return Kept(context=context, form=canonical(question).encode(), vector=vector, **values)


def look(file: AnswerFile, text: str, since: float = 0.0) -> str | None:
    found = file.nearest(b"c", EMBEDDER.embed([text])[0], 0.6, canonical(text).encode(), since)
    return found[0].text if found else None


def test_answers_live_on_age_and_give_way(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.db", EMBEDDER.digest)
    for number in range(6):
        file.put(kept(f"What is the number {number}?"), limit=5)
    file.put(kept("What's the number 5?", text="newer"), limit=5)
    assert look(file, "What is the number 0?") is None
    assert look(file, "Tell me the number 5") == "newer"
    assert look(file, "Tell me the number 5", since=time.time() + 1) is None
    file.close()
    again = AnswerFile(tmp_path / "answers.db", EMBEDDER.digest)
    assert look(again, "what's the number 4") == "answer to What is the number 4?"
    assert again.clear() == 5
    again.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"the number 4" not in raw
    other = AnswerFile(tmp_path / "answers.db", "another embedder")
    assert look(other, "What is the number 4?") is None
    other.close()


def test_a_miss_costs_little(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.db", EMBEDDER.digest)
    for number in range(1000):
        file._remember(number + 1, kept(f"What is the number {number}?"))
    look(file, "warm up the stack of vectors")
    took = []
    for number in range(50):
        begun = time.thread_time()
        assert look(file, f"What is the colour of sheep number {number}?") is None
        took.append(time.thread_time() - begun)
    file.close()
    assert min(took) < 0.002


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(LOCALAI_ANSWER_CACHE="greedy") as started:
        yield started


def asked(daemon: Daemon, text: str, *before: tuple[str, str], **fields: Any) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in (*before, ("user", text))]
    body = {"model": daemon.echo("a.echo", 0), "messages": messages, "temperature": 0, "max_tokens": 4000, **fields}
    answer = daemon.ask("POST", "/v1/chat/completions", body, unix=True)
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json
    return found


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_a_paraphrase_gets_the_answer_and_is_told(daemon: Daemon) -> None:
    first = asked(daemon, "What is the capital of France?")
    second = asked(daemon, "Hi, what's the capital of France? Thanks!")
    assert "answer_cache" not in first
    assert text_of(second) == text_of(first)
    assert second["answer_cache"]["category"] == "fact"
    assert 0.6 <= second["answer_cache"]["likeness"] <= 1
    assert "from the cache" in second["reason"]
    assert second["usage"]["completion_tokens"] == first["usage"]["completion_tokens"]
    assert second["usage"]["energy"]["joules"] is None
    assert "from the cache" in second["usage"]["energy"]["reason"]
    wait_for(lambda: daemon.newest("queries").get("reason") == second["reason"])


def test_a_stream_tells_it_too(daemon: Daemon) -> None:
    asked(daemon, "What is the capital of Peru?")
    body = {"model": daemon.echo("a.echo", 0), "temperature": 0, "max_tokens": 4000, "stream": True}
    body |= {"messages": [{"role": "user", "content": "what's the capital of Peru"}]}
    body |= {"stream_options": {"include_usage": True}}
    answer = daemon.ask("POST", "/v1/chat/completions", body, unix=True)
    assert events_of(answer.content)[-1]["answer_cache"]["category"] == "fact"


@pytest.mark.parametrize(
    ("text", "before", "fields"),
    [
        ("What is the capital of Spain?", (), {}),
        ("What is the capital of Italy?", (("system", "Answer in French."),), {}),
        ("What is the capital of Italy?", (), {"temperature": 0.7}),
        ("What is the capital of Italy?", (), {"max_tokens": 3999}),
        ("What is the capital of Italy?", (), {"stop": ["x"]}),
        ("What is the capital of Italy?", (), {"n": 2}),
        ("What is the capital of Italy?", (), {"logprobs": True}),
        ("What is the capital of Italy?", (), {"memory": "italy"}),
        (
            "What is the capital of Italy?",
            (),
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        ),
        ("What is the weather in Italy now?", (), {}),
    ],
    ids=["name", "system", "sampled", "length", "stop", "several", "logprobs", "memory", "tools", "of the moment"],
)
def test_another_request_is_answered_anew(
    daemon: Daemon, text: str, before: tuple[tuple[str, str], ...], fields: dict[str, Any]
) -> None:
    asked(daemon, "What is the capital of Italy?")
    assert "answer_cache" in asked(daemon, "what is the capital of Italy")
    assert "answer_cache" not in asked(daemon, text, *before, **fields)


def test_a_cut_answer_is_not_kept(daemon: Daemon) -> None:
    for _ in range(2):
        assert "answer_cache" not in asked(daemon, "What is the capital of Norway?", max_tokens=3)


def test_a_change_of_the_memory_ends_it(daemon: Daemon) -> None:
    def remember(text: str) -> None:
        daemon.ask("POST", "/localai/memory", {"text": text, "namespace": "m"}, unix=True)

    remember("The harbour of Brisk opens at four")
    question = "When does the harbour of Brisk open?"
    first = asked(daemon, question, memory="m")
    assert len(first["memories"]) == 1
    again = asked(daemon, "when does the harbour of Brisk open", memory="m")
    assert again["answer_cache"]
    assert again["memories"] == first["memories"]
    remember("The harbour of Brisk opens at five from May on")
    assert "answer_cache" not in asked(daemon, question, memory="m")


def test_forgetting_empties_it(daemon: Daemon) -> None:
    added = daemon.ask("POST", "/localai/memory", {"text": "The vault code of Ona is 88213"}, unix=True).json
    answer = asked(daemon, "What is the vault code of Ona?", memory="default")
    assert "88213" in text_of(answer)
    assert any(b"88213" in path.read_bytes() for path in daemon.home.glob("answers.db*"))
    receipt = daemon.ask("POST", "/localai/memory/forget", {"ids": [added["id"]]}, unix=True).json
    assert receipt["complete"], receipt
    assert receipt["elsewhere"]["answers"] > 0
    assert not any(b"88213" in path.read_bytes() for path in daemon.home.glob("answers.db*"))
    assert "88213" not in text_of(asked(daemon, "What is the vault code of Ona?", memory="default"))


def test_it_is_off_unless_switched_on() -> None:
    with running() as plain:
        for _ in range(2):
            assert "answer_cache" not in asked(plain, "What is the capital of France?")
        assert not (plain.home / "answers.db").exists()
