"""Text out of token bytes: whole characters only, cut at the first stop string, however the bytes are split."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.textstream import TextStream


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """All that came out, in order, and the stop string that was met."""
    text = TextStream(stop)
    out = [text.push(piece) for piece in pieces]
    return [*out, text.flush()], text.stopped


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """The plain definition: the earliest stop string, of several that start together the longest."""
    met = [(text.find(word), -len(word), word) for word in stop if word and word in text]
    return (text[: min(met)[0]], min(met)[2]) if met else (text, None)


@pytest.mark.parametrize(
    ("pieces", "stop", "out", "stopped"),
    [
        pytest.param([b"Hi", b" you"], (), ["Hi", " you", ""], None, id="no-stop-holds-nothing"),
        pytest.param([b"a\xe2", b"\x82", b"\xac!"], (), ["a", "", "€!", ""], None, id="character-over-three-pieces"),
        pytest.param([b"a\xe2\x82", b"b"], (), ["a", "\ufffdb", ""], None, id="broken-character"),
        pytest.param([b"a\xe2\x82"], (), ["a", "\ufffd"], None, id="cut-off-at-the-end"),
        pytest.param([b"one\n", b"\ntwo"], ("\n\n",), ["one", "", ""], "\n\n", id="stop-over-two-pieces"),
        pytest.param([b"one\n", b"two"], ("\n\n",), ["one", "\ntwo", ""], None, id="withheld-then-released"),
        pytest.param([b"a EN", b"tail"], ("END",), ["a ", "ENtail", ""], None, id="near-miss"),
        pytest.param([b"x", b"abc", b"e"], ("abcd", "bc"), ["x", "", "a", ""], "bc", id="earlier-fails"),
        pytest.param([b"xabc", b"d"], ("abcd", "bc"), ["x", "", ""], "abcd", id="earlier-start-wins"),
        pytest.param([b"a\n", b"\n"], ("\n", "\n\n"), ["a", "", ""], "\n\n", id="longest-at-equal-start"),
        pytest.param([b"a\n"], ("\n", "\n\n"), ["a", ""], "\n", id="shorter-at-the-end"),
        pytest.param([b"aab", b"aac"], ("aabaac", "aac"), ["", "", ""], "aabaac", id="overlap-in-itself"),
        pytest.param([b"stop", b"more"], ("stop",), ["", "", ""], "stop", id="nothing-after-the-stop"),
        pytest.param([b"abc"], ("",), ["abc", ""], None, id="empty-stop-is-ignored"),
    ],
)
def test_pieces(pieces: list[bytes], stop: tuple[str, ...], out: list[str], stopped: str | None) -> None:
    assert stream(pieces, stop) == (out, stopped)


@given(st.data())
def test_any_split_gives_the_same_text(data: st.DataObject) -> None:
    letters = data.draw(st.sampled_from(["ab", "aé€😀", "\n :x"]))
    text = data.draw(st.text(letters, max_size=30))
    stop = tuple(data.draw(st.lists(st.text(letters, max_size=5), max_size=4)))
    raw = text.encode()
    borders = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *borders], [*borders, len(raw)], strict=True)]
    out, stopped = stream(pieces, stop)
    assert ("".join(out), stopped) == cut(text, stop)


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_any_bytes_become_valid_text(pieces: list[bytes]) -> None:
    out, _ = stream(pieces, ("never in there",))
    assert "".join(out) == b"".join(pieces).decode(errors="replace")


def test_time_is_linear_in_a_hostile_text() -> None:
    began = time.thread_time()
    out, stopped = stream([b"a"] * 20_000, ("a" * 15_000 + "b",))
    assert ("".join(out), stopped) == ("a" * 20_000, None)
    assert time.thread_time() - began < 2
