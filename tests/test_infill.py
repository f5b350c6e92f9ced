"""Fill in the middle: what each family's prompt looks like, and which neighbours go in."""

from __future__ import annotations

from typing import Any

import pytest

from localai.api.caller import Caller
from localai.api.llamacpp_in import InfillBody, infill_request
from localai.api.visitor import Visitor
from localai.infill import Markers, Neighbour, laid_out, markers

THREE = {"prefix": 1, "suffix": 2, "middle": 3}
BEFORE, AFTER = [50, 51], [60]
NEAR = [Neighbour([20], [21] * 10), Neighbour([22], [23] * 3)]


@pytest.mark.parametrize(
    ("fim", "control", "bos", "expected"),
    [
        ({**THREE, "repo": 4, "file": 5}, {}, [], [1, 50, 51, 2, 60, 3]),
        (THREE, {}, [9], [9, 1, 50, 51, 2, 60, 3]),
        ({"file": 5}, {"[PREFIX]": 6, "[SUFFIX]": 7}, [9], [9, 7, 60, 6, 50, 51]),
    ],
    ids=["qwen, starcoder", "codellama, deepseek", "codestral"],
)
def test_each_family_has_its_own_order(fim: Any, control: Any, bos: list[int], expected: list[int]) -> None:
    known = markers(fim, control)
    assert known is not None
    assert laid_out(known, BEFORE, AFTER, [], bos=bos, here=[], room=100) == expected


@pytest.mark.parametrize(
    ("fim", "control"), [(THREE, {}), ({}, {"[PREFIX]": 6, "[SUFFIX]": 7})], ids=["three markers", "two markers"]
)
def test_a_keystroke_changes_the_end_of_the_prompt_alone(fim: Any, control: Any) -> None:
    known = markers(fim, control)
    assert known is not None
    first = laid_out(known, BEFORE, AFTER, NEAR, bos=[], here=[30], room=100, typed=[70])
    second = laid_out(known, BEFORE, AFTER, NEAR, bos=[], here=[30], room=100, typed=[70, 71])
    assert second == [*first, 71]


def test_a_vocabulary_without_markers_cannot_do_it() -> None:
    assert markers({"prefix": 1, "suffix": 2}, {"[PREFIX]": 3}) is None


@pytest.mark.parametrize(("room", "inside"), [(100, [20, 22]), (10, [22]), (5, [])], ids=["all", "the nearest", "none"])
def test_neighbours_go_in_whole_while_they_fit(room: int, inside: list[int]) -> None:
    tokens = laid_out(Markers("psm", 1, 2, 3, 4, 5), BEFORE, AFTER, NEAR, bos=[], here=[30], room=room)
    assert [token for token in tokens if token in (20, 22)] == inside
    assert tokens[-6:] == [1, 50, 51, 2, 60, 3]
    assert tokens[:2] == ([4, 30] if inside else [1, 50])
    assert tokens.count(5) == len(inside) + bool(inside)
    assert len(tokens) - 6 <= max(room, 0)


def test_the_next_keystroke_begins_like_the_last_one() -> None:
    known = Markers("psm", 1, 2, 3, 4, 5)
    now, then = (
        laid_out(known, before, AFTER, NEAR, bos=[], here=[30], room=100) for before in (BEFORE, [*BEFORE, 52])
    )
    same = next(place for place, (a, b) in enumerate(zip(now, then, strict=False)) if a != b)
    assert same == now.index(2)


def test_who_types_goes_first() -> None:
    body = InfillBody.model_validate(
        {"input_prefix": "a", "prompt": "b", "input_suffix": "c", "input_extra": [{"text": "x"}], "n_predict": 0}
    )
    turn = infill_request(body, Caller("vim", Visitor()))
    assert (turn.prompt, turn.suffix, turn.priority, turn.max_tokens) == ("ab", "c", "interactive", 0)
    assert turn.neighbours == (("snippet", "x"),)
