"""Looks for bytes that must not be in a file any more: pieces of erased texts and vectors, at any offset, in any file.

Byte strings and paths enter, finds leave. It knows nothing of SQLite: what a page layout hides from a query, it sees.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store.errors import StoreUnusable

Words = npt.NDArray[np.uint64]

WORD = 8
PIECE = 16
STRIDE = 8
CHUNK = 4 << 20
MOST_PIECES = 4_000_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MOST_FILTER_BITS = 24
_SEPARATOR = b"\0\xff\0"
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")


@dataclass(frozen=True, slots=True)
class Find:
    """A piece that is still in a file, at its first offset there."""

    path: Path
    offset: int
    piece: bytes


def text_pieces(text: str) -> Iterator[bytes]:
    """The text in three encodings, cut so that any 23 bytes of it in a row contain one piece whole."""
    for encoding in _ENCODINGS:
        yield from byte_pieces(text.encode(encoding))


def byte_pieces(data: bytes) -> Iterator[bytes]:
    """Windows of 16 bytes that cover `data`; one shorter piece where it is shorter."""
    if len(data) <= PIECE:
        yield data
        return
    for start in range(0, len(data) - PIECE + 1, STRIDE):
        yield data[start : start + PIECE]
    yield data[-PIECE:]


class _Table:
    """Pieces by a 64-bit key of their first bytes, behind a bitmap that turns away nearly all others."""

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self.size = size
        self.pieces: dict[int, list[bytes]] = {}
        for piece in pieces:
            key = int(self.keys(np.frombuffer(piece, "<u8", size // WORD))[0])
            self.pieces.setdefault(key, []).append(piece)
        self._sorted: Words = np.array(sorted(self.pieces), np.uint64)
        # About one bit in a hundred set; small enough for a few pieces to stay in the processor's cache.
        bits = min(_MOST_FILTER_BITS, len(self.pieces).bit_length() + 6)
        self._shift = np.uint64(64 - bits)
        self._near = np.zeros(1 << bits, np.bool_)
        self._near[self._sorted >> self._shift] = True

    def keys(self, words: Words) -> Words:
        """One key for the bytes that begin at each word: 8 of them, or 16."""
        mixed: Words = words * _MULTIPLIER
        if self.size == WORD:
            return mixed
        pairs: Words = (mixed[:-1] ^ (mixed[:-1] >> np.uint64(29))) * _MULTIPLIER + mixed[1:]
        return pairs

    def find(self, words: Words) -> Iterator[tuple[int, list[bytes]]]:
        """(index of the word, pieces that may begin there)."""
        if not self.pieces or len(words) < self.size // WORD:
            return
        keys = self.keys(words)
        near = np.flatnonzero(self._near[keys >> self._shift])
        at = np.minimum(np.searchsorted(self._sorted, keys[near]), len(self._sorted) - 1)
        for index in near[self._sorted[at] == keys[near]].tolist():
            yield index, self.pieces[int(keys[index])]


class Scanner:
    """Finds any of many byte strings. Those of 8 bytes and more are looked up by hash, all at once.

    At most 4 million pieces are kept, evenly spread; `kept` of `given` says how many.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        distinct = sorted({piece for piece in pieces if piece and not _is_filler(piece)})
        self.given = len(distinct)
        self.pieces = distinct[:: -(-len(distinct) // MOST_PIECES)] if distinct else []
        self._short = [piece for piece in self.pieces if len(piece) < WORD]
        self._tables = (
            _Table((piece for piece in self.pieces if WORD <= len(piece) < PIECE), WORD),
            _Table((piece for piece in self.pieces if len(piece) >= PIECE), PIECE),
        )

    @property
    def kept(self) -> int:
        return len(self.pieces)

    def scan(self, path: Path) -> tuple[list[Find], int]:
        """What is found, once for each piece, and the number of bytes read. A file that is gone has none."""
        found: dict[bytes, int] = {}
        longest, start, tail = max(map(len, self.pieces), default=1), 0, b""
        for block in _blocks(path):
            for offset, piece in self._search(tail + block):
                found.setdefault(piece, start - len(tail) + offset)
            start += len(block)
            tail = (tail + block)[-(longest - 1) :] if longest > 1 else b""
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
        for piece in self._short:
            if (offset := data.find(piece)) >= 0:
                yield offset, piece
        for lane in range(WORD):
            count = max(0, len(data) - lane) // WORD
            words = np.frombuffer(data, "<u8", count, lane) if count else np.zeros(0, np.uint64)
            for table in self._tables:
                for index, pieces in table.find(words):
                    offset = lane + index * WORD
                    yield from ((offset, piece) for piece in pieces if data.startswith(piece, offset))


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
