"""Trees of messages and whole conversations: cut, fork, export, import and search, in the store and over the socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localai.conversation_files import VERSION, exported
from localai.conversation_imports import imported
from localai.conversation_search import ConversationSearch
from localai.conversations import Conversations, StoredMessage
from localai.errors import BadRequest, LocalaiError
from tests.daemon_fixture import Daemon

_PLAIN = StoredMessage(
    id="0",
    conversation="",
    parent=None,
    role="user",
    content="x",
    reasoning="",
    model=None,
    finish_reason=None,
    usage=None,
    created=0.0,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Conversations]:
    opened = Conversations(tmp_path / "conversations.db")
    yield opened
    opened.close()


def chain(length: int) -> list[StoredMessage]:
    return [replace(_PLAIN, id=str(n), parent=str(n - 1) if n else None) for n in range(length)]


def talk(store: Conversations, *texts: str, title: str = "") -> str:
    """A conversation of these messages, by turns the person's and the model's."""
    chat, last = store.create(title=title), None
    for number, text in enumerate(texts):
        last = store.append(chat.id, last, "assistant" if number % 2 else "user", text, finish_reason="stop").id
    return chat.id


def test_long_trees_are_cut_and_deleted(store: Conversations) -> None:
    """SQLite's own cascades end at a depth of 1,000."""
    chat = store.plant(store.create().id, chain(3000), "2999")
    path = store.path(chat.head or "")
    assert store.cut(path[10].id).messages == 10
    assert store.get(chat.id).head == path[9].id
    store.plant(chat.id, chain(3000), "2999")
    store.delete(chat.id)
    assert store.list() == ()


def test_a_cut_elsewhere_leaves_the_shown_branch(store: Conversations) -> None:
    chat = talk(store, "q", "first")
    question = store.tree(chat)[0].id
    other = store.append(chat, question, "assistant", "second")
    store.cut(store.tree(chat)[1].id)
    assert [m.content for m in store.path(store.get(chat).head or "")] == ["q", "second"]
    assert store.get(chat).head == other.id


def test_pinned_conversations_come_first_and_pages_go_on(store: Conversations) -> None:
    chats = [talk(store, str(number)) for number in range(5)]
    store.update(chats[1], pinned=True)
    first = store.list(limit=2)
    rest = store.list(limit=9, before=first[-1].id)
    assert [chats.index(chat.id) for chat in first + rest] == [1, 4, 3, 2, 0]


def test_no_head_begins_at_the_root(store: Conversations) -> None:
    chat = talk(store, "q", "a")
    assert store.update(chat, head="").head is None


@pytest.mark.parametrize("kind", ["markdown", "html", "json"])
def test_exports_hold_the_text_and_no_markup_of_others(store: Conversations, kind: Any) -> None:
    chat = talk(store, "What is <b>1 + 1</b>?", "It is **2**.\n\n<script>alert(1)</script>", title="Sums")
    text = exported(kind, store.get(chat), store.path(store.get(chat).head or ""), store.tree(chat))
    assert "Sums" in text
    assert kind != "html" or ("<strong>2</strong>" in text and "<script" not in text and "<b>" not in text)
    assert kind != "markdown" or "## Answer\n\nIt is **2**." in text


def test_an_export_comes_back_with_every_branch(store: Conversations) -> None:
    chat = talk(store, "q", "one")
    store.append(chat, store.tree(chat)[0].id, "assistant", "two", reasoning="why")
    text = exported("json", store.get(chat), (), store.tree(chat))
    (read,) = imported(json.loads(text))
    again = store.plant(store.create(title=read.title).id, read.messages, read.head)
    assert [(m.content, m.reasoning) for m in store.tree(again.id)] == [("q", ""), ("one", ""), ("two", "why")]
    assert [m.content for m in store.path(again.head or "")] == ["q", "two"]


def gpt(name: str, parent: str | None, role: str | None, *parts: Any) -> dict[str, Any]:
    said = {"author": {"role": role}, "content": {"parts": list(parts)}, "create_time": 1.0} if role else None
    return {"id": name, "parent": parent, "message": said}


_CHATGPT = {
    "title": "Colours",
    "current_node": "d",
    "mapping": {
        "r": gpt("r", None, None),
        "s": gpt("s", "r", "system", ""),
        "b": gpt("b", "s", "user", "Name one", {"image": 1}),
        "d": gpt("d", "b", "assistant", "blue"),
        "c": gpt("c", "b", "assistant", "red"),
    },
}
_WEBUI = {
    "title": "Colours",
    "chat": {
        "title": "Colours",
        "models": ["llama"],
        "history": {
            "currentId": "d",
            "messages": {
                "b": {"parentId": None, "role": "user", "content": "Name one", "timestamp": 1},
                "d": {"parentId": "b", "role": "assistant", "content": "blue"},
                "c": {"parentId": "b", "role": "assistant", "content": "red"},
            },
        },
    },
}


@pytest.mark.parametrize("row", [_CHATGPT, _WEBUI], ids=["ChatGPT", "Open WebUI"])
def test_chats_of_other_programs_keep_their_branches(store: Conversations, row: dict[str, Any]) -> None:
    (read,) = imported([row])
    chat = store.plant(store.create(title=read.title).id, read.messages, read.head)
    assert chat.title == "Colours"
    assert [m.content for m in store.path(chat.head or "")] == ["Name one", "blue"]
    assert sorted(m.content for m in store.children(store.tree(chat.id)[0].id)) == ["blue", "red"]


def test_a_request_body_becomes_a_chat() -> None:
    said = [{"role": r, "content": c} for r, c in (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"))]
    (read,) = imported({"model": "qwen", "messages": said})
    assert (read.system, read.model, read.title) == ("Be kind.", "qwen", "Hi")
    assert [m.content for m in read.messages] == ["Hi", "Hello"]


@pytest.mark.parametrize(
    ("written", "thought", "said"),
    [
        ("<think>\nSo,\n\nblue.\n</think>\n\nBlue", "So,\n\nblue.", "Blue"),
        ("<thinking>Hm</thinking> Blue", "Hm", "Blue"),
        ("<think>never ended", "never ended", ""),
        (
            '<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 s</summary>\n'
            "&gt; So, &lt;blue&gt;\n> it is.\n</details>\nBlue",
            "So, <blue>\nit is.",
            "Blue",
        ),
        ("Blue, as in <think>x</think>", "", "Blue, as in <think>x</think>"),
    ],
    ids=["think", "thinking", "unended", "Open WebUI", "quoted later"],
)
def test_what_a_model_thought_is_told_from_what_it_said(written: str, thought: str, said: str) -> None:
    (read,) = imported({"messages": [{"role": r, "content": written} for r in ("user", "assistant")]})
    assert (read.messages[0].content, read.messages[0].reasoning) == (written, "")
    assert (read.messages[1].content, read.messages[1].reasoning) == (said, thought)


_CIRCLE = {"mapping": {"a": gpt("a", "b", "user", "x"), "b": gpt("b", "a", "user", "y")}, "title": ""}


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"messages": 3},
        {"mapping": {"a": 1}},
        _CIRCLE,
        {"format": "localai conversation", "version": VERSION + 1},
        {"messages": [{"role": "user", "content": [[]]}]},
    ],
    ids=["empty", "none", "no list", "no node", "circle", "newer", "odd part"],
)
def test_files_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        imported(value)


def test_words_are_found_before_meanings(store: Conversations) -> None:
    dog = talk(store, "My puppy barks at night", "Train the dog with patience")
    car = talk(store, "How do I change the oil of my car?")
    named = talk(store, "x", title="Car papers")
    finder = ConversationSearch(store)
    assert [(p.conversation, p.how) for p in finder.find("CAR")][:2] == [(named, "words"), (car, "words")]
    near = finder.find("canine behaviour training")
    assert (near[0].conversation, near[0].how) == (dog, "meaning")
    assert finder.find("  ") == ()


def test_the_routes_do_what_they_say(daemon: Daemon) -> None:
    client = daemon.client
    made = client.post("/localai/conversations/import", {"content": [_CHATGPT]})["conversations"][0]
    path = f"/localai/conversations/{made['id']}"
    tree = client.get(f"{path}/tree")
    assert next((m["role"], m["snippet"]) for m in tree["messages"]) == ("user", "Name one")
    fork = client.post(f"{path}/fork", {"message": tree["head"]})
    assert fork["messages"] == 2
    assert client.get(f"{path}/export?kind=markdown")["name"] == "colours.md"
    assert client.delete(f"{path}/messages/{tree['head']}")["messages"] == 2
    assert client.patch(path, {"pinned": True, "head": ""})["pinned"]
    found = client.get("/localai/conversations?search=name%20one")["conversations"]
    assert {made["id"], fork["id"]} <= {chat["id"] for chat in found}
    for broken in ({"content": {"a": 1}}, {"content": "x"}):
        with pytest.raises(LocalaiError):
            client.post("/localai/conversations/import", broken)
    with pytest.raises(LocalaiError, match="no benchmark"):
        client.get("/localai/bench")
