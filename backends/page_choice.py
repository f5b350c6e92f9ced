"""Which pages of a long context a token should attend to: a summary of each page's keys, met by the token's queries.

A page is judged by the means of a few keys each: what attention they would draw. That is finer than bounds over whole
pages (Quest, Tang et al., 2024), with which the starter model copied less well. The first page, which draws attention
whatever is asked (StreamingLLM, Xiao et al., 2024), and the latest ones are always chosen. Knows no memory, no files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.engine import Floats

SINKS = 1
RECENT = 2
"""Whole pages at the end that are always chosen, beside the one that is being filled."""

PARTS = 8
"""Means of each page's keys."""
_LEVELS = 127

Pages = NDArray[np.intp]
"""Numbers of pages, shape (kv_heads, chosen), ascending in each row."""


class PageChoice:
    """Summaries of up to `pages` pages in each of `layers` layers."""

    def __init__(self, layers: int, kv_heads: int, pages: int, head_dim: int) -> None:
        # Eight bits and one scale per page: the order of pages hardly depends on more, the memory does.
        self._means = np.zeros((layers, kv_heads, pages, PARTS, head_dim), np.int8)
        self._scales = np.zeros((layers, kv_heads, pages, 1), np.float32)

    @property
    def nbytes(self) -> int:
        return self._means.nbytes + self._scales.nbytes

    def note(self, layer: int, page: int, keys: Floats) -> None:
        """Summarise a full page; `keys` are (kv_heads, tokens, head_dim)."""
        heads, _, width = keys.shape
        means = keys.reshape(heads, PARTS, -1, width).mean(axis=2)
        scales = np.maximum(np.abs(means).max(axis=(1, 2)) / _LEVELS, np.finfo(np.float32).tiny)
        self._means[layer, :, page] = np.rint(means / scales[:, None, None])
        self._scales[layer, :, page, 0] = scales

    def choose(self, layer: int, queries: Floats, held: int, most: int) -> Pages:
        """At most `most` of the first `held` pages for `queries`, (kv_heads, groups, head_dim), scaled as for scores.

        All of them where they are no more than that.
        """
        heads = queries.shape[0]
        if held <= most:
            return np.broadcast_to(np.arange(held), (heads, held))
        free = slice(SINKS, held - RECENT)
        count = most - SINKS - RECENT
        found = np.empty((heads, most), np.intp)
        found[:, :SINKS] = np.arange(SINKS)
        found[:, most - RECENT :] = np.arange(held - RECENT, held)
        score = self._score(layer, queries, free)
        best = np.argpartition(score, score.shape[1] - count, axis=1)[:, score.shape[1] - count :]
        found[:, SINKS : most - RECENT] = np.sort(best, axis=1) + SINKS
        return found

    def _score(self, layer: int, queries: Floats, pages: slice) -> Floats:
        """Of each page, the share of attention that the queries should give it, summed, (kv_heads, pages)."""
        means = self._means[layer, :, pages].astype(np.float32)
        heads, held, _, width = means.shape
        scores = queries @ means.reshape(heads, -1, width).transpose(0, 2, 1)
        scores = scores.reshape(heads, -1, held, PARTS) * self._scales[layer, :, None, pages]
        weights = np.exp(scores - scores.max(axis=(2, 3), keepdims=True)).sum(axis=3)
        shares: Floats = (weights / weights.sum(axis=2, keepdims=True)).sum(axis=1)
        return shares
