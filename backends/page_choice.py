"""Which pages of a long context a token should attend to: a summary of each page's keys, met by the token's queries.

A page is judged by the bounds of its keys in each channel, which no score within it can exceed (Quest, Tang et al.,
2024). The first page, which draws attention whatever is asked (StreamingLLM, Xiao et al., 2024), and the latest ones
are always among the chosen. Knows no memory and no files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.engine import Floats

SINKS = 1
RECENT = 2
"""Whole pages at the end that are always chosen, beside the one that is being filled."""

Pages = NDArray[np.intp]
"""Numbers of pages, shape (kv_heads, chosen), ascending in each row."""


class PageChoice:
    """Summaries of up to `pages` pages in each of `layers` layers."""

    def __init__(self, layers: int, kv_heads: int, pages: int, head_dim: int) -> None:
        # Half precision: the order of pages hardly depends on the last digits, the memory does.
        self._bounds = np.zeros((2, layers, kv_heads, pages, head_dim), np.float16)

    @property
    def nbytes(self) -> int:
        return self._bounds.nbytes

    def note(self, layer: int, page: int, keys: Floats) -> None:
        """Summarise a full page; `keys` are (kv_heads, tokens, head_dim)."""
        keys.min(axis=1, out=self._bounds[0, layer, :, page])
        keys.max(axis=1, out=self._bounds[1, layer, :, page])

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
        """Of each page, the largest share of attention that one of the queries could give it, (kv_heads, pages)."""
        low, high = (side[layer, :, pages].astype(np.float32) for side in self._bounds)
        reach = np.maximum(queries, 0) @ high.transpose(0, 2, 1) + np.minimum(queries, 0) @ low.transpose(0, 2, 1)
        share = np.exp(reach - reach.max(axis=2, keepdims=True))
        share /= share.sum(axis=2, keepdims=True)
        best: Floats = share.max(axis=1)
        return best
