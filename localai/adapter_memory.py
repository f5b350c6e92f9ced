"""What the adapters of one engine take: which of them it keeps, as its child does, and their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from backends.contract import Adapter
from backends.lora import ADAPTERS_KEPT


class AdapterMemory:
    """Mirrors the child's choice: the newest `ADAPTERS_KEPT` stay. Sizes are those of the files, in bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def total(self) -> int:
        return sum(self._kept.values())

    def growth(self, adapters: Sequence[Adapter]) -> int:
        """Bytes that using these would add; what they would push out counts as still there."""
        return sum(_size(adapter) for adapter in adapters if (adapter.path, adapter.stamp) not in self._kept)

    def use(self, adapters: Sequence[Adapter]) -> None:
        """Note that these are loaded now, and the longest unused ones no longer."""
        for adapter in adapters:
            self._kept[adapter.path, adapter.stamp] = _size(adapter)
            self._kept.move_to_end((adapter.path, adapter.stamp))
        while len(self._kept) > ADAPTERS_KEPT:
            self._kept.popitem(last=False)


def _size(adapter: Adapter) -> int:
    try:
        return Path(adapter.path).stat().st_size
    except OSError:
        return 0  # gone since it was looked up: the engine says so when it opens it
