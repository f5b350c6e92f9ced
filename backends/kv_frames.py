"""What the daemon and a child tell each other of the KV cache: parts of the frames in `contract`."""

from __future__ import annotations

from typing import Literal

import msgspec

Tier = Literal["live", "ram", "ssd"]  # of a cached prefix: in the KV cells, or outside them


class KvGrant(msgspec.Struct, frozen=True, kw_only=True):
    """This child's share of RAM, and the cap of the SSD that all children share, in bytes; `folder` '' is no SSD.

    `trace` is a file that records what prompts have in common, without text; '' for none.
    """

    ram: int = 0
    ssd: int = 0
    folder: str = ""
    trace: str = ""


class Evicted(msgspec.Struct, frozen=True, tag=True):
    """Blocks that the daemon has just removed from the SSD."""

    keys: list[bytes]


class KvReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The KV cache of one child: counts since it began, and what it holds in RAM now.

    `hit_tokens` were not computed again; `restores` and `restored_bytes` are of blocks. `bad` blocks were damaged or
    missing, `refused` ones found no room in RAM, `short` ones none on the SSD. `problem` is why nothing is written.
    """

    hit_tokens: dict[Tier, int]
    restores: dict[Tier, int]
    restored_bytes: dict[Tier, int]
    ram_bytes: int
    ram_blocks: int
    ram_evictions: int
    bad: int
    refused: int
    short: int
    problem: str


class Purge(msgspec.Struct, frozen=True, tag=True):
    """Forget all KV whose text has one of `pieces`, in every tier, with all that continues it; no piece: all KV."""

    id: int
    pieces: list[bytes]


class Purged(msgspec.Struct, frozen=True, tag=True):
    """That is done: so many blocks and sequences in the cells are gone. `roots` are those that were looked through."""

    id: int
    roots: list[bytes]
    blocks: int
    sequences: int
