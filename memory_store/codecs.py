"""Rows of an index page: unit vectors in, a few bytes each out, and the approximate dot products of a query with them.

int8: one byte per number and a scale. binary: one bit per number after centring on the page and a fixed rotation, with
the query left as it is (the estimator of RaBitQ, Gao and Long 2024). Neither knows of pages on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors

Codes = npt.NDArray[np.uint8]
ROTATION_SEED = 20_260_201

# The dot products of one query with blocks of rows, one after the other: (codes of each block, factors of all rows, the
# query's product with the centre of each row's block).
Scorer = Callable[[Sequence[Codes], Vectors, Vectors], Vectors]
_Product = Callable[[Codes], Vectors]


class Codec(Protocol):
    name: str
    row_bytes: int

    def encode(self, rows: Vectors, centre: Vectors) -> tuple[Codes, Vectors]:
        """(n, width) rows around `centre` (width,) -> (n, row_bytes) codes and (n,) factors."""

    def scorer(self, query: Vectors) -> Scorer: ...

    def margins(self, factors: Vectors, query: Vectors) -> Vectors:
        """How far each approximate product may be off, at most; infinite where nothing is certain."""


class Int8Codec:
    """One scale per row: the error of a dot product is at most scale * sqrt(width) / 2."""

    name = "int8"

    def __init__(self, width: int, *, accelerated: bool = True) -> None:
        self.row_bytes = width
        self._cdist = _simsimd() if accelerated else None

    def encode(self, rows: Vectors, centre: Vectors) -> tuple[Codes, Vectors]:
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        codes = np.rint(np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0))
        return codes.astype(np.int8).view(np.uint8), scales

    def scorer(self, query: Vectors) -> Scorer:
        product, step = _product(query, self._cdist)

        def score(blocks: Sequence[Codes], factors: Vectors, _: Vectors) -> Vectors:
            products: Vectors = np.concatenate([product(block) for block in blocks]).astype(np.float32)
            products *= factors
            products *= step
            return products

        return score

    def margins(self, factors: Vectors, query: Vectors) -> Vectors:
        root = np.float32(np.sqrt(self.row_bytes) / 2)
        # Rounding of the row, and of the query where that is int8 too; a little for float16 and float32.
        asked = np.float32(np.abs(query).max() / 127 * root * 1.1 if self._cdist is not None else 0.0)
        margins: Vectors = factors * root + asked + np.float32(1e-3)
        return margins


class BinaryCodec:
    """width / 8 bytes and one factor a row, |r|^2 / |r|_1 of the rotated remainder: an unbiased estimate."""

    name = "binary"

    def __init__(self, width: int, *, accelerated: bool = True) -> None:
        self._cdist = _simsimd() if accelerated else None
        drawn = np.random.default_rng(ROTATION_SEED).standard_normal((width, width))
        self._rotation: Vectors = np.linalg.qr(drawn)[0].astype(np.float32)
        self._width = width
        self.row_bytes = -(-width // 8)

    def encode(self, rows: Vectors, centre: Vectors) -> tuple[Codes, Vectors]:
        rest = (rows - centre) @ self._rotation
        sums = np.abs(rest).sum(axis=1)
        squares = np.einsum("ij,ij->i", rest, rest)
        factors = np.divide(squares, sums, out=np.zeros_like(sums), where=sums > 1e-9)
        return np.packbits(rest > 0, axis=1), factors.astype(np.float32)

    def scorer(self, query: Vectors) -> Scorer:
        turned = np.zeros(self.row_bytes * 8, np.float32)
        turned[: self._width] = query @ self._rotation
        product, step = _product(turned, self._cdist)
        whole = float(product(np.ones((1, len(turned)), np.uint8))[0])

        def score(blocks: Sequence[Codes], factors: Vectors, bases: Vectors) -> Vectors:
            # A bit is a sign: the sum with signs is twice that of the set bits, less the sum of all.
            found = np.concatenate([product(np.unpackbits(block, axis=1)) for block in blocks]).astype(np.float32)
            products: Vectors = (2 * found - np.float32(whole)) * factors * step + bases
            return products

        return score

    def margins(self, factors: Vectors, query: Vectors) -> Vectors:
        return np.full(len(factors), np.inf, np.float32)


def _product(query: Vectors, cdist: Any) -> tuple[_Product, np.float32]:
    """Dot products of a block of int8 rows with the query, and what they are to be multiplied with."""
    if cdist is None:
        return (lambda block: block.view(np.int8).astype(np.float32) @ query), np.float32(1)
    step = float(np.abs(query).max()) / 127 or 1.0
    small = np.rint(query / step).astype(np.int8).reshape(1, -1)
    return (lambda block: np.asarray(cdist(small, block.view(np.int8), metric="dot")).reshape(-1)), np.float32(step)


def codec(name: str, width: int) -> Codec:
    """ "int8" or "binary"."""
    return BinaryCodec(width) if name == "binary" else Int8Codec(width)


def _simsimd() -> Any:
    try:
        import simsimd
    except ImportError:
        return None
    return simsimd.cdist
