"""What a recorded trace gives away, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.kv.recording import GRANULE, Recorder
from backends.kv_frames import KvGrant
from tests.batcher_loop import Loop

SHARED = "the same long beginning, as a system prompt would have. "


def lines(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_equal_beginnings_are_equal_numbers_and_no_text_is_left(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    loop = Loop(tmp_path, kv=KvGrant(ram=10**6, trace=str(path)))
    prompts = [SHARED * 2 + "a question", SHARED * 2 + "another one", SHARED * 2 + "a question"]
    for number, prompt in enumerate(prompts):
        loop.add(number, prompt, max_tokens=40)
        loop.run()
    found = lines(path)
    same = len(SHARED * 2) // GRANULE
    assert found[0]["prompt"][:same] == found[1]["prompt"][:same]
    assert found[0]["prompt"] == found[2]["prompt"]
    assert found[0]["answer"] != found[1]["answer"]
    assert all(len(visit["prompt"]) == len(text) // GRANULE for visit, text in zip(found, prompts, strict=True))
    # The echo engine says its prompt again, yet nothing shows that: a number means all that came before as well.
    assert not set(found[0]["prompt"]) & set(found[0]["answer"])
    assert b"beginning" not in path.read_bytes()
    assert {oct(file.stat().st_mode & 0o777) for file in (path, tmp_path / "trace.jsonl.salt")} == {"0o600"}


def test_another_salt_gives_other_numbers(tmp_path: Path) -> None:
    tokens = list(range(64))
    for name in ("a", "b", "a"):
        Recorder(tmp_path / name).note(tokens, 32)
    one, again = lines(tmp_path / "a")
    assert one["prompt"] == again["prompt"]
    assert not set(one["prompt"]) & set(lines(tmp_path / "b")[0]["prompt"])


@pytest.mark.parametrize("place", ["folder", "folder/file/below a file"], ids=["a folder", "below a file"])
def test_a_place_that_cannot_be_written_stops_the_record_alone(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    loop = Loop(tmp_path, kv=KvGrant(ram=10**6, trace=str(tmp_path / place)))
    loop.add(1, "first", max_tokens=5)
    loop.run()
    assert loop.text(1) == "first"
    assert loop.store is not None
    assert "not recorded" in loop.store.report().problem
