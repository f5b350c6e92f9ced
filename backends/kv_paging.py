"""What paging a KV cache may take, and what it took: parts of the frames in `contract`. Sizes are bytes."""

from __future__ import annotations

import msgspec


class Paging(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine that pages its KV cache may do so: bytes in RAM, and on the SSD in `folder`.

    A decoded token attends to `tokens` of its context at most, to as many as the RAM holds where that is 0, and where
    it is -1 to all of them, read from the SSD each time.
    """

    ram: int = 0
    ssd: int = 0
    folder: str = ""
    tokens: int = 0


class PagedUse(msgspec.Struct, frozen=True, kw_only=True):
    """What paging the KV cache of a sequence took: pages of one head and bytes through the SSD, and what is held now.

    Decoded tokens attended to `attended` of the `held` pages that they had behind them, summed over tokens and layers.
    """

    read_pages: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    attended: int = 0
    held: int = 0
    ram_bytes: int = 0
    ssd_bytes: int = 0

    def after(self, before: PagedUse) -> PagedUse:
        """Both together; what is held is as of the later one, this."""
        return PagedUse(
            read_pages=before.read_pages + self.read_pages,
            read_bytes=before.read_bytes + self.read_bytes,
            written_bytes=before.written_bytes + self.written_bytes,
            attended=before.attended + self.attended,
            held=before.held + self.held,
            ram_bytes=self.ram_bytes,
            ssd_bytes=self.ssd_bytes,
        )
