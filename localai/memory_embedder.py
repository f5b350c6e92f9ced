"""An embedding model of the daemon in the memory's service: texts enter from the memory's threads, unit vectors leave.

Every text is a turn like any other: routed, metered and recorded. It knows nothing of what the vectors are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from threading import Lock

import numpy as np

from localai.calibration_store import identity
from localai.errors import LocalaiError
from localai.messages import Embedded, TurnRequest
from localai.turn import Parts, answer
from memory_store.embed import Vectors
from memory_store.errors import EmbedderFault

_TOGETHER = 8
_LONGEST = 1600
"""Characters of a text that are embedded: the contexts of such models are short. Words find the rest."""


class ModelEmbedder:
    """Usable from any thread but the one of `loop`, which runs the turns."""

    def __init__(self, model: str, parts: Parts, loop: asyncio.AbstractEventLoop) -> None:
        self._model, self._parts, self._loop = model, parts, loop
        self._lock = Lock()
        self._known: tuple[str, int] | None = None

    @property
    def digest(self) -> str:
        """Of the model's file and of how texts are cut. Raises EmbedderFault where there is no such model."""
        return self._about()[0]

    @property
    def width(self) -> int:
        return self._about()[1]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises EmbedderFault where the model cannot be used."""
        found = asyncio.run_coroutine_threadsafe(self._rows(texts), self._loop).result()
        return np.array(found, np.float32).reshape(len(texts), -1) if found else np.zeros((0, self.width), np.float32)

    def _about(self) -> tuple[str, int]:
        with self._lock:
            if self._known is None:
                try:
                    digest = identity(self._parts.library.resolve(self._model))
                except LocalaiError as error:
                    raise _fault(error) from error
                except OSError as error:
                    raise EmbedderFault(f"the memory's embedding model cannot be read: {error.strerror}", "") from error
                self._known = f"model:{digest}:{_LONGEST}", self.embed(["width"]).shape[1]
            return self._known

    async def _rows(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        room = asyncio.Semaphore(_TOGETHER)
        return list(await asyncio.gather(*(self._row(text, len(texts), room) for text in texts)))

    async def _row(self, text: str, together: int, room: asyncio.Semaphore) -> tuple[float, ...]:
        request = TurnRequest(
            kind="embedding",
            model=self._model,
            prompt=text[:_LONGEST],
            priority="interactive" if together == 1 else "background",
            together=min(together, _TOGETHER),
            app="memory",
            trusted=True,
        )
        async with room:
            try:
                async with aclosing(answer(request, self._parts)) as events:
                    return [event.vector async for event in events if isinstance(event, Embedded)][-1]
            except LocalaiError as error:
                raise _fault(error) from error


def _fault(error: LocalaiError) -> EmbedderFault:
    return EmbedderFault(f"the memory's embedding model: {error.message}", error.hint)
