"""How a budget of RAM is spent on the pages of a long context. Pure: sizes and bytes in, a PageShape out."""

from __future__ import annotations

from backends.errors import OutOfMemory, StorageFailed
from backends.kv_paging import Paging
from backends.page_choice import PARTS, RECENT, SINKS
from backends.page_pool import BLOCK, PageShape

PAGE = 32
"""Tokens of a page: keys of one head fill whole sectors, and 8,000 tokens are 250 pages to choose from."""
LEAST = SINKS + RECENT + 5
_PER_FRAME = 12
_PER_PAGE = 8
"""Bytes of the tables for each."""


def page_shape(layers: int, kv_heads: int, head_dim: int, n_ctx: int, paging: Paging) -> PageShape:
    """As many frames as `paging.ram` holds beside the summaries of all pages and two blocks to stream through.

    Raises OutOfMemory where those are too few to work with, StorageFailed where the SSD's share cannot hold `n_ctx`.
    """
    pages = -(-n_ctx // PAGE)
    shape = PageShape(layers, kv_heads, head_dim, PAGE, pages, pages)
    summaries = pages * layers * kv_heads * (PARTS * head_dim + _PER_PAGE)
    fixed = summaries + 2 * BLOCK * shape.layer_bytes
    frame = layers * (shape.layer_bytes + kv_heads * _PER_FRAME)
    frames = (paging.ram - fixed) // frame
    least = min(LEAST, pages)
    if frames < least:
        needed = fixed + least * frame
        raise OutOfMemory(
            f"{paging.ram} bytes for keys and values are too few to page {n_ctx} tokens: {needed} are needed",
            "raise page_ram, or take a smaller context (--ctx)",
        )
    if frames < pages and paging.ssd < pages * layers * shape.layer_bytes:
        raise StorageFailed(
            f"{n_ctx} tokens take {pages * layers * shape.layer_bytes} bytes of SSD, {paging.ssd} are granted",
            "raise page_ssd, or take a smaller context (--ctx)",
        )
    return PageShape(layers, kv_heads, head_dim, PAGE, pages, min(frames, pages))
