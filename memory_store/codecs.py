"""Rows of an index page: unit vectors in, a byte per number and a scale out, and the dot products of a query with them.

It knows nothing of pages on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors

Codes = npt.NDArray[np.uint8]

# The dot products of one query with blocks of rows, one after the other: (codes of each block, factors of all rows).
Scorer = Callable[[Sequence[Codes], Vectors], Vectors]
_Product = Callable[[Codes], Vectors]


class Int8Codec:
    """One scale per row: the error of a dot product is at most scale * sqrt(width) / 2."""

    def __init__(self, width: int, *, accelerated: bool = True) -> None:
        self.row_bytes = width
        self._cdist = _simsimd() if accelerated else None

    def encode(self, rows: Vectors) -> tuple[Codes, Vectors]:
        """(n, width) rows -> (n, row_bytes) codes and (n,) factors."""
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        codes = np.rint(np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0))
        return codes.astype(np.int8).view(np.uint8), scales

    def decode(self, codes: Codes, factors: Vectors) -> Vectors:
        rows: Vectors = codes.view(np.int8).astype(np.float32)
        rows *= factors[:, None]
        return rows

    def scorer(self, query: Vectors) -> Scorer:
        product, step = _product(query, self._cdist)

        def score(blocks: Sequence[Codes], factors: Vectors) -> Vectors:
            products: Vectors = np.concatenate([product(block) for block in blocks]).astype(np.float32)
            products *= factors
            products *= step
            return products

        return score

    def margins(self, factors: Vectors, query: Vectors) -> Vectors:
        """How far each approximate product may be off, at most."""
        root = np.float32(np.sqrt(self.row_bytes) / 2)
        # Rounding of the row, and of the query where that is int8 too; a little for float16 and float32.
        asked = np.float32(np.abs(query).max() / 127 * root * 1.1 if self._cdist is not None else 0.0)
        margins: Vectors = factors * root + asked + np.float32(1e-3)
        return margins


def _product(query: Vectors, cdist: Any) -> tuple[_Product, np.float32]:
    """Dot products of a block of int8 rows with the query, and what they are to be multiplied with."""
    if cdist is None:
        return (lambda block: block.view(np.int8).astype(np.float32) @ query), np.float32(1)
    step = float(np.abs(query).max()) / 127 or 1.0
    small = np.rint(query / step).astype(np.int8).reshape(1, -1)
    return (lambda block: np.asarray(cdist(small, block.view(np.int8), "dot"))[0]), np.float32(step)


def _simsimd() -> Any:
    try:
        import simsimd
    except ImportError:
        return None
    return simsimd.cdist
