"""The conversation store on real files: trees, titles, pages, damage, other versions, a writer that is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from localai.attached import with_files
from localai.conversations import Conversations, title_of
from localai.errors import BadRequest, ConfigError, NotFound, OutOfResources


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.db"


@pytest.fixture
def store(path: Path) -> Iterator[Conversations]:
    opened = Conversations(path)
    yield opened
    opened.close()


def test_a_chat_is_read_back_as_it_was_written(store: Conversations, path: Path) -> None:
    chat = store.create(model="starter", system="Be brief.")
    question = store.append(chat.id, None, "user", "What is the capital\nof France?")
    answer = store.append(chat.id, question.id, "assistant", "", model="starter")
    store.extend(answer.id, "Pa", reasoning="Easy. ")
    store.extend(answer.id, "ris \N{CROISSANT}")
    store.finish(answer.id, "stop", {"completion_tokens": 2, "energy": None})
    store.close()

    again = Conversations(path)
    found = again.get(chat.id)
    messages = again.path(found.head or "")
    again.close()
    assert (found.title, found.system, found.messages) == ("What is the capital of France?", "Be brief.", 2)
    assert [(m.role, m.content, m.reasoning, m.finish_reason) for m in messages] == [
        ("user", "What is the capital\nof France?", "", None),
        ("assistant", "Paris \N{CROISSANT}", "Easy. ", "stop"),
    ]
    assert messages[1].usage == {"completion_tokens": 2, "energy": None}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_branches_keep_their_own_paths(store: Conversations) -> None:
    chat = store.create()
    question = store.append(chat.id, None, "user", "Name a colour")
    answers = [store.append(chat.id, question.id, "assistant", colour) for colour in ("red", "blue")]
    assert store.get(chat.id).head == answers[1].id
    assert store.children(question.id) == tuple(answers)
    store.set_head(chat.id, answers[0].id)
    assert [m.content for m in store.path(store.get(chat.id).head or "")] == ["Name a colour", "red"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("short", "short"),
        ("  two\n\nlines ", "two lines"),
        ("word " * 20, "word word word word word word word word word word…"),
        ("x" * 80, "x" * 50 + "…"),
        (with_files("Sum it up", [("a.txt", "```\nlong"), ("b/", "== c ==\n")]), "Sum it up"),
        (with_files("", [("a.txt", "long"), ("b/", "")]), "a.txt, b/"),
    ],
    ids=["short", "lines", "between words", "one long word", "with files", "files alone"],
)
def test_title_is_the_beginning_of_the_question(text: str, title: str) -> None:
    assert title_of(text) == title


def test_a_given_title_stays(store: Conversations) -> None:
    chat = store.create(title="Mine")
    store.append(chat.id, None, "user", "hello")
    assert store.get(chat.id).title == "Mine"
    assert store.update(chat.id, title="Other", system="s", model="m").title == "Other"


def test_pages_list_the_last_used_first(store: Conversations) -> None:
    chats = [store.create(title=str(number)) for number in range(5)]
    store.append(chats[0].id, None, "user", "again")
    first = store.list(limit=3)
    rest = store.list(limit=3, before=first[-1].id)
    assert [chat.title for chat in first + rest] == ["0", "4", "3", "2", "1"]


def test_deleting_takes_the_messages_along(store: Conversations, path: Path) -> None:
    chat = store.create()
    message = store.append(chat.id, None, "user", "secret")
    store.append(chat.id, message.id, "assistant", "answer")
    store.delete(chat.id)
    with pytest.raises(NotFound):
        store.message(message.id)
    with pytest.raises(NotFound):
        store.get(chat.id)


def test_ids_rise_and_never_repeat(store: Conversations) -> None:
    chat = store.create()
    ids = [store.append(chat.id, None, "user", "x").id for _ in range(300)]
    assert ids == sorted(set(ids))


def test_wrong_requests_change_nothing(store: Conversations) -> None:
    mine, other = store.create(), store.create()
    foreign = store.append(other.id, None, "user", "theirs")
    before = store.get(mine.id)
    with pytest.raises(NotFound, match="no message"):
        store.append(mine.id, foreign.id, "assistant", "x")
    with pytest.raises(NotFound, match="no message"):
        store.update(mine.id, title="changed", head=foreign.id)
    with pytest.raises(NotFound, match="no conversation"):
        store.append("0", None, "user", "x")
    with pytest.raises(NotFound, match="no message"):
        store.extend("0", "x")
    with pytest.raises(BadRequest, match="role"):
        store.append(mine.id, None, "robot", "x")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="limit"):
        store.list(limit=0)
    assert store.get(mine.id) == before


def test_threads_share_one_store(store: Conversations) -> None:
    def chatter() -> None:
        chat = store.create()
        parent = None
        for number in range(20):
            parent = store.append(chat.id, parent, "user", str(number)).id

    threads = [threading.Thread(target=chatter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.path(chat.head or "")) for chat in store.list()] == [20] * 4


def test_a_file_of_a_newer_program_is_left_alone(path: Path) -> None:
    Conversations(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO _sqlite_migrations VALUES (99, 'conversations', 'm900_future', '')")
    raw.close()
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(ConfigError, match="newer") as caught:
        Conversations(path)
    assert "upgrade" in caught.value.hint
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 40, b"SQLite format 3\0junk" * 90])
def test_a_damaged_file_is_named_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        Conversations(path)
    assert path.read_bytes() == content


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        Conversations(tmp_path / "none" / "conversations.db")
    assert str(tmp_path) not in caught.value.message


def test_a_full_disk_costs_one_clear_error(store: Conversations) -> None:
    chat = store.create()
    kept = store.append(chat.id, None, "user", "kept")
    store._db.execute("PRAGMA max_page_count = 40")
    with pytest.raises(OutOfResources, match="no space"):
        store.append(chat.id, kept.id, "assistant", "x" * 1_000_000)
    store._db.execute("PRAGMA max_page_count = 100000")
    assert [m.content for m in store.path(store.get(chat.id).head or "")] == ["kept"]


_WRITER = """
import sys
from pathlib import Path
from localai.conversations import Conversations
store = Conversations(Path(sys.argv[1]))
parent = None
chat = store.create()
while True:
    question = store.append(chat.id, parent, "user", "question")
    answer = store.append(chat.id, question.id, "assistant", "")
    for _ in range(3):
        store.extend(answer.id, "word ")
    store.finish(answer.id, "stop", {"completion_tokens": 3})
    print(answer.id, flush=True)
    parent = answer.id
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_writer_loses_nothing_that_it_had_finished(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        finished = [child.stdout.readline().strip() for _ in range(25)]
        child.send_signal(signal.SIGKILL)
        finished += child.stdout.read().split()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()
    store = Conversations(path)
    kept = [store.message(message) for message in finished if len(message) == 20]
    head = store.list()[0].head
    thread = store.path(head or "")
    store.close()
    assert len(kept) >= 25
    assert {(m.content, m.finish_reason) for m in kept} == {("word word word ", "stop")}
    assert [m.id for m in thread[1 : 2 * len(kept) : 2]] == [m.id for m in kept]
