"""An embedding model that may be gone for a while: texts enter, its vectors leave, or zero rows while it fails.

Memories are kept and found by their words then; the reason stands in `problem`. What it missed is made by `reembed`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic

import numpy as np

from memory_store.embed import Embedder, Vectors, checked
from memory_store.errors import EmbedderFault

_log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
"""So long a model that failed is not asked again: each try may be a whole start of an engine."""


class Standby:
    """Usable from any thread that `model` may be used from. `behind`: it has failed since this program began."""

    def __init__(self, model: Embedder, clock: Callable[[], float] = monotonic) -> None:
        self.model = model
        self.behind = False
        self._clock, self._again = clock, 0.0
        self._fault: EmbedderFault | None = None

    @property
    def digest(self) -> str:
        return self.model.digest

    @property
    def width(self) -> int:
        return self.model.width

    @property
    def problem(self) -> str:
        """Why it fails, "" where it does not."""
        fault = self._fault
        return "" if fault is None else fault.message

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Never raises EmbedderFault."""
        if self._fault is None or self._clock() >= self._again:
            try:
                rows = checked(self.model, texts)
            except EmbedderFault as error:
                self.note(error)
            else:
                self._fault = None
                return rows
        return np.zeros((len(texts), self.width), np.float32)

    def note(self, error: EmbedderFault) -> None:
        """It has failed: here, or where it was asked by itself."""
        if self._fault is None:
            _log.warning("found by words alone: %s", error.message)
        self.behind, self._fault, self._again = True, error, self._clock() + RETRY_SECONDS


def strict(embedder: Embedder) -> Embedder:
    """The model itself, which raises EmbedderFault where it fails."""
    return embedder.model if isinstance(embedder, Standby) else embedder
