"""The sketch for small memory: one bit for each number of a row, centred on the segment and turned, and one factor.

Rows enter once, a query's products with all of them leave: the estimator of RaBitQ (Gao and Long 2024), which leaves
the query as it is but for rounding to 4 bits, whose planes are counted against the bits of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from memory_store.embed import Vectors
from memory_store.shelf import HEAP

ROTATION_SEED = 20_260_201
AT_ONCE = 32_768
PLANES = 4


class SignSketch:
    """width / 8 bytes a row and 3 more."""

    # A mean needs no more.
    sample_rows: ClassVar[int] = 1024

    def __init__(self, sample: Vectors, chunks: Iterable[Vectors], count: int) -> None:
        """`chunks`: (n, width) unit rows, `count` in all; the mean of `sample` is their centre."""
        width = sample.shape[1]
        self._rotation = _rotation(width)
        self._centre: Vectors = sample.mean(axis=0)
        # Of 256 bits all are never set.
        words, kind = -(-width // 64), np.uint8 if width <= 256 else np.uint16
        self._bits = np.empty((words, count), np.uint64)
        self._factors, self._set, done = np.empty(count, np.float16), np.empty(count, kind), 0
        for rows in chunks:
            here = slice(done, done + len(rows))
            rest = (rows - self._centre) @ self._rotation
            sums, squares = np.abs(rest).sum(axis=1), np.einsum("ij,ij->i", rest, rest)
            self._factors[here] = np.divide(squares, sums, out=np.zeros_like(sums), where=sums > 1e-9)
            packed = _packed(rest > 0, words)
            self._bits[:, here] = packed.T
            self._set[here] = np.minimum(np.bitwise_count(packed).sum(axis=1), np.iinfo(kind).max)
            done += len(rows)

    def compare(self, query: Vectors) -> tuple[Vectors, Vectors]:
        scores = self._scores(query)
        return scores, scores.reshape(-1, HEAP).max(axis=1)

    def _scores(self, query: Vectors) -> Vectors:
        turned = query @ self._rotation
        low = turned.min()
        step = max((turned.max() - low) / (2**PLANES - 1), np.float32(1e-9))
        levels = np.rint((turned - low) / step).astype(np.uint8)
        planes = _packed(levels >> np.arange(PLANES, dtype=np.uint8)[:, None] & 1, len(self._bits))
        found = np.empty(self._bits.shape[1], np.float32)
        for start in range(0, len(found), AT_ONCE):
            here = slice(start, start + AT_ONCE)
            found[here] = _counted(self._bits[:, here], planes)
            found[here] *= step
            found[here] += low * self._set[here]
        # A bit is a sign: the sum with signs is twice that of the set bits, less the sum of all.
        found *= 2
        found -= (levels * step + low).sum()
        found *= self._factors
        found += query @ self._centre
        return found


@lru_cache
def _rotation(width: int) -> Vectors:
    """The same for all segments of an index."""
    drawn = np.random.default_rng(ROTATION_SEED).standard_normal((width, width))
    return np.ascontiguousarray(np.linalg.qr(drawn)[0], np.float32)


def _packed(bits: npt.NDArray[np.bool_] | npt.NDArray[np.uint8], words: int) -> npt.NDArray[np.uint64]:
    """(n, width) zeros and ones -> (n, words)."""
    packed = np.zeros((len(bits), words * 8), np.uint8)
    packed[:, : -(-bits.shape[1] // 8)] = np.packbits(bits, axis=1)
    return packed.view(np.uint64)


def _counted(bits: npt.NDArray[np.uint64], planes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """For each column of `bits`: its common ones with each plane, the planes weighed 1, 2, 4 and so on."""
    total = np.zeros(bits.shape[1], np.uint16)
    common, ones = np.empty(bits.shape[1], np.uint64), np.empty(bits.shape[1], np.uint8)
    for plane in planes[::-1]:
        total <<= 1
        for row, word in zip(bits, plane, strict=True):
            np.bitwise_and(row, word, out=common)
            total += np.bitwise_count(common, out=ones)
    return total
