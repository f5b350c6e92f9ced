"""Looks for bytes that must not be in a file any more: pieces of erased texts and vectors, at any offset, in any file.

Byte strings and paths enter, finds leave. It knows nothing of SQLite: what a page layout hides from a query, it sees.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store.errors import StoreUnusable

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]

WORD = 8
PIECE = 16
STRIDE = 8
CHUNK = 4 << 20
MOST_PIECES = 4_000_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MOST_FILTER_BITS = 24
_SEPARATOR = b"\0\xff\0"
_AT_ONCE = 1024
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")


@dataclass(frozen=True, slots=True)
class Find:
    """A piece that is still in a file, at its first offset there."""

    path: Path
    offset: int
    piece: bytes


def byte_pieces(data: bytes) -> Iterator[bytes]:
    """Windows of 16 bytes that cover `data`; one shorter piece where it is shorter."""
    if len(data) <= PIECE:
        yield data
        return
    for start in range(0, len(data) - PIECE + 1, STRIDE):
        yield data[start : start + PIECE]
    yield data[-PIECE:]


class Pieces:
    """What to look for, cut as `byte_pieces` does: any 23 bytes of it in a row contain one piece whole.

    At most `most` of 16 bytes are held, chosen by chance that their bytes decide; `given`: how many there were, about.
    """

    def __init__(self, data: Iterable[bytes] = (), most: int = MOST_PIECES) -> None:
        self._most = most
        self.short = set[bytes]()
        self._rows, self._waiting = np.zeros((0, 2), np.uint64), list[Words]()
        self._held, self._halved = 0, 0
        self.add(data)

    @property
    def given(self) -> int:
        """Different pieces; where not all are held, about."""
        return len(self.short) + (len(self.rows()) << self._halved)

    def add(self, data: Iterable[bytes]) -> None:
        several = iter(data)
        while some := list(islice(several, _AT_ONCE)):
            self.short |= {one for one in some if 0 < len(one) < PIECE and not _is_filler(one)}
            if long := [one for one in some if len(one) >= PIECE]:
                rows = _telling(_windows(long))
                self._waiting.append(self._chosen(rows))
                self._held += len(self._waiting[-1])
            if self._held >= self._most:
                self.rows()

    def add_texts(self, texts: Iterable[str]) -> None:
        self.add(text.encode(encoding) for text in texts for encoding in _ENCODINGS)

    def rows(self) -> Words:
        """(n, 2): those of 16 bytes, each once, by their keys."""
        if self._waiting:
            rows = np.concatenate([self._rows, *self._waiting])
            rows = rows[np.argsort(_keys(rows), kind="stable")]
            # Equal ones may stay where two share a key: they are found twice.
            again = np.append(False, (rows[1:] == rows[:-1]).all(axis=1))
            self._rows, self._waiting, self._held = rows[~again], [], 0
            while len(self._rows) > self._most:
                self._halved += 1
                self._rows = self._chosen(self._rows)
        return self._rows

    def _chosen(self, rows: Words) -> Words:
        # The middle bits: the keys' order and the filter before them use the high ones.
        chosen: Words = rows[(_keys(rows) >> np.uint64(20)) & np.uint64((1 << self._halved) - 1) == 0]
        return chosen


def _windows(data: Sequence[bytes]) -> Words:
    """The windows of 16 bytes of all of these, which are so long at least."""
    lengths = np.array([len(one) for one in data])
    counts = (lengths - PIECE) // STRIDE + 1
    first = np.repeat(np.cumsum(lengths) - lengths, counts)
    inside = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * STRIDE
    starts = np.concatenate([first + inside, np.cumsum(lengths) - PIECE])
    joined = np.frombuffer(b"".join(data), np.uint8)
    cut = np.lib.stride_tricks.sliding_window_view(joined, PIECE)[starts]
    return np.ascontiguousarray(cut).view("<u8")


def _telling(rows: Words) -> Words:
    """Without runs of one character or two."""
    cut = rows.view(np.uint8)
    others = cut != cut[:, :1]
    second = np.take_along_axis(cut, others.argmax(axis=1)[:, None], axis=1)
    telling: Words = rows[(others & (cut != second)).any(axis=1)]
    return telling


def _keys(rows: Words) -> Words:
    return _pairs(rows[:, 0] * _MULTIPLIER, rows[:, 1] * _MULTIPLIER)


def _pairs(first: Words, second: Words) -> Words:
    found: Words = (first ^ (first >> np.uint64(29))) * _MULTIPLIER + second
    return found


class _Table:
    """Sorted keys behind a bitmap that turns away nearly all others."""

    def __init__(self, keys: Words) -> None:
        self._sorted = keys
        # About one bit in a hundred set; small enough for a few pieces to stay in the processor's cache.
        bits = min(_MOST_FILTER_BITS, len(keys).bit_length() + 6)
        self._shift = np.uint64(64 - bits)
        self._near = np.zeros(1 << bits, np.bool_)
        self._near[keys >> self._shift] = True

    def find(self, keys: Words) -> tuple[Places, Places]:
        """(places in `keys`, places in the table) of all that are equal."""
        if not len(self._sorted) or not len(keys):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        near = np.flatnonzero(self._near[keys >> self._shift])
        low = np.searchsorted(self._sorted, keys[near])
        high = np.searchsorted(self._sorted, keys[near], side="right")
        times = high - low
        at = np.repeat(low, times) + np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        return np.repeat(near, times), at


class _Heads:
    """Pieces of `least` bytes and more, less than `beyond`, by as many of their first bytes as a word has room for."""

    def __init__(self, pieces: Iterable[bytes], least: int, beyond: int) -> None:
        mine = sorted(piece for piece in pieces if least <= len(piece) < beyond)
        self._alike = least < WORD
        self._mask = np.uint64((1 << 8 * min(least, WORD)) - 1)
        heads = b"".join(piece[:WORD].ljust(WORD, b"\0") for piece in mine)
        keys: Words = np.frombuffer(heads, "<u8") * _MULTIPLIER
        order = np.argsort(keys, kind="stable")
        self._pieces = [mine[at] for at in order.tolist()]
        self._table = _Table(keys[order])

    def find(self, words: Words) -> Iterator[tuple[int, bytes]]:
        """(index of the word, piece that may begin there); short ones are certain, and told once."""
        places, at = self._table.find((words & self._mask) * _MULTIPLIER)
        pairs = _firsts(at, places) if self._alike else zip(at.tolist(), places.tolist(), strict=True)
        for entry, index in pairs:
            yield index, self._pieces[entry]


class Scanner:
    """Finds any of many byte strings. Those of 8 bytes and more are looked up by hash, all at once.

    `kept` of `given` pieces are looked for.
    """

    def __init__(self, pieces: Pieces | Iterable[bytes]) -> None:
        pieces = pieces if isinstance(pieces, Pieces) else Pieces(pieces)
        self._rows = pieces.rows()
        self.given, self.kept = pieces.given, len(pieces.short) + len(self._rows)
        self._short = [_Heads(pieces.short, size, size + 1) for size in {*map(len, pieces.short)} if size < WORD]
        self._heads = _Heads(pieces.short, WORD, PIECE)
        self._whole = _Table(_keys(self._rows))

    def without_short(self) -> Scanner:
        """The same for files of numbers, in which few bytes stand by chance."""
        other = copy(self)
        other._short = []
        return other

    def scan(self, path: Path) -> tuple[list[Find], int]:
        """What is found, once for each piece, and the number of bytes read. A file that is gone has none."""
        found: dict[bytes, int] = {}
        start, tail = 0, b""
        for block in _blocks(path):
            for offset, piece in self._search(tail + block):
                found.setdefault(piece, start - len(tail) + offset)
            start += len(block)
            tail = (tail + block)[-(PIECE - 1) :]
        return [Find(path, offset, piece) for piece, offset in sorted(found.items(), key=lambda item: item[1])], start

    def among(self, texts: Iterable[bytes]) -> set[bytes]:
        """Those pieces that some of these byte strings contain."""
        found: set[bytes] = set()
        held: list[bytes] = []
        size = 0
        for text in texts:
            held.append(text)
            size += len(text)
            if size >= CHUNK:
                found.update(piece for _, piece in self._search(_SEPARATOR.join(held)))
                held, size = [], 0
                if len(found) == self.kept:
                    return found
        found.update(piece for _, piece in self._search(_SEPARATOR.join(held)))
        return found

    def _search(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        padded = data + bytes(WORD - 1)
        for lane in range(WORD):
            words = np.frombuffer(padded, "<u8", (len(padded) - lane) // WORD, lane)
            for heads in (*self._short, self._heads):
                for index, piece in heads.find(words):
                    if data.startswith(piece, lane + index * WORD):
                        yield lane + index * WORD, piece
            mixed: Words = words * _MULTIPLIER
            places, at = self._whole.find(_pairs(mixed[:-1], mixed[1:]))
            equal = (words[places] == self._rows[at, 0]) & (words[places + 1] == self._rows[at, 1])
            for row, index in _firsts(at[equal], places[equal]):
                if data.startswith(piece := self._rows[row].tobytes(), lane + index * WORD):
                    yield lane + index * WORD, piece


def _firsts(at: Places, places: Places) -> list[tuple[int, int]]:
    """(entry, its first place) of each entry that is there."""
    entries, first = np.unique(at, return_index=True)
    return list(zip(entries.tolist(), places[first].tolist(), strict=True))


def _blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, none where it is gone, read by another process.

    POSIX gives up all of a process's locks on a file as soon as it closes any descriptor of it. SQLite would go on
    without its own, and the next program that closes the file would throw its log away.
    """
    if not path.exists():
        return
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        assert reader.stdout is not None
        while block := reader.stdout.read(CHUNK):
            yield block
    if reader.returncode and path.exists():
        raise StoreUnusable(f"{path.name} cannot be searched", "make it readable for you")


def _is_filler(piece: bytes) -> bool:
    """Runs of one character (a ruled line, zeros) are in every file and tell nothing."""
    return len(set(piece)) <= 2
