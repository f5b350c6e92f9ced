"""Text to unit vectors, with a table of token vectors that ships with the package.

Texts enter, float32 rows leave. It knows nothing of storage. Any model with the same protocol can take its place.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memory_store.errors import EmbedderFault

Vectors = npt.NDArray[np.float32]

FOLDER = Path(__file__).parent / "embedder"
TOKENS_AT_ONCE = 8192
CACHED_WORDS = 200_000
LONGEST_WORD = 100
UNKNOWN = "[UNK]"
# Words of letters and digits, or one other character; "_" parts words as BERT's punctuation does.
_WORDS = re.compile(r"[^\W_]+|[^\w\s]|_")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Scripts written without spaces: one token per character, as in the teacher's tokenizer.
_IDEOGRAPHS = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f])")


class Embedder(Protocol):
    """What the store asks of an embedding model.

    `digest` names the exact weights and the treatment of text: vectors of two digests are never compared.
    """

    @property
    def digest(self) -> str: ...

    @property
    def width(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, width) float32: unit rows, or a zero row for a text that the model knows nothing of."""


class StaticEmbedder:
    """The mean of token vectors distilled from all-MiniLM-L6-v2: 29,525 tokens x 256, int8 rows with fp16 scales.

    English, lower-cased; camelCase and snake_case are split where the whole word is unknown. Deterministic: a text
    gives the same alone and in a batch. Usable from any thread.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        card = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        self._rows: npt.NDArray[np.int8] = np.load(folder / "rows.npy")
        self._scales: Vectors = np.load(folder / "scales.npy").astype(np.float32)[:, None]
        tokens = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
        if self._rows.shape != (card["tokens"], card["width"]) or len(tokens) != card["tokens"]:
            raise EmbedderFault("the embedding table is damaged", "reinstall localai-daemon")
        self._vocabulary = {token: number for number, token in enumerate(tokens)}
        self._longest = max(map(len, tokens))
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._digest = f"static:{card['digest'][:32]}:1"
        self._width = int(card["width"])

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def width(self) -> int:
        return self._width

    def embed(self, texts: Sequence[str]) -> Vectors:
        sums = np.zeros((len(texts), self._width), np.float32)
        first, held, waiting = 0, 0, [*map(self.tokens, texts)]
        for last, ids in enumerate(waiting):
            held += len(ids)
            if held >= TOKENS_AT_ONCE or last == len(waiting) - 1:
                self._add(sums[first : last + 1], waiting[first : last + 1])
                first, held = last + 1, 0
        norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, None]
        unit: Vectors = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 1e-6)
        return unit

    def tokens(self, text: str) -> list[int]:
        """WordPiece ids in order, without the ones that the vocabulary lacks."""
        if not text.isascii():
            text = _plain(text)
        known, ids = self._pieces, list[int]()
        for word in _WORDS.findall(text):
            pieces = known.get(word)
            ids += self._learn(word) if pieces is None else pieces
        return ids

    def _add(self, sums: Vectors, batch: Sequence[list[int]]) -> None:
        for row, ids in zip(sums, batch, strict=True):
            for start in range(0, len(ids), TOKENS_AT_ONCE):
                part = ids[start : start + TOKENS_AT_ONCE]
                row += (self._rows[part] * self._scales[part]).sum(axis=0)

    def _learn(self, word: str) -> tuple[int, ...]:
        lower = word.lower()
        parts = [lower] if lower in self._vocabulary else [part.lower() for part in _CAMEL.split(word)]
        pieces = tuple(number for part in parts for number in self._split(part))
        if len(self._pieces) >= CACHED_WORDS:
            self._pieces.clear()
        self._pieces[word] = pieces
        return pieces

    def _split(self, word: str) -> Iterator[int]:
        """Greedy longest match from the left; nothing where any rest is unknown, as in the teacher."""
        if len(word) > LONGEST_WORD:
            return
        start, found = 0, []
        while start < len(word):
            mark = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                number = self._vocabulary.get(mark + word[start:end])
                if number is not None:
                    break
            else:
                return
            found.append(number)
            start = end
        yield from found


def _plain(text: str) -> str:
    """Without accents and control characters, ideographs apart."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) not in ("Mn", "Cf"))
    return _IDEOGRAPHS.sub(r" \1 ", bare)


def checked(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed, and refuse what is not (n, width), finite, and of length one or zero. Raises EmbedderFault."""
    rows = np.asarray(embedder.embed(texts), np.float32)
    if rows.shape != (len(texts), embedder.width):
        raise EmbedderFault(
            f"the embedder gave {rows.shape} where {(len(texts), embedder.width)} was promised",
            "use another embedding model; `localai memory doctor` checks it",
        )
    if not np.isfinite(rows).all():
        raise EmbedderFault("the embedder gave numbers that are not finite", "use another embedding model")
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    unit: Vectors = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-6)
    return unit
