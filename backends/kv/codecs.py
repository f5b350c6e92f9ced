"""An engine's KV as bytes: blocks along the sequence where it can cut them, else whole sequences.

One store serves all engines through these; what the bytes mean is the engine's own.
"""

from __future__ import annotations

from typing import Protocol

from backends.engine import Engine
from backends.kv.keys import BLOCK


class Codec(Protocol):
    """`block` is the tokens of a whole block, 0 where a sequence is one; `whole` says that it cannot be cut later."""

    block: int
    whole: bool

    def export(self, seq: int, start: int, end: int) -> bytearray:
        """Positions `start` to `end` of a sequence."""

    def append(self, seq: int, start: int, end: int, payload: bytearray) -> bool:
        """Put positions back behind the first `start` of a sequence; False where the engine refuses them.

        A refusal may leave the sequence empty where `start` is 0, and leaves it as it was elsewhere.
        """


class BlockCodec:
    """For engines with the capability `blocks`."""

    block = BLOCK
    whole = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def export(self, seq: int, start: int, end: int) -> bytearray:
        return self._engine.export_block(seq, start, end)

    def append(self, seq: int, start: int, end: int, payload: bytearray) -> bool:
        return self._engine.import_block(seq, start, end, payload)


class SequenceCodec:
    """For engines with `save` alone; where the saved state is all that the model keeps (`whole_restore`), uncut."""

    block = 0

    def __init__(self, engine: Engine, *, whole: bool) -> None:
        self._engine = engine
        self.whole = whole

    def export(self, seq: int, start: int, end: int) -> bytearray:
        return self._engine.save(seq)

    def append(self, seq: int, start: int, end: int, payload: bytearray) -> bool:
        return self._engine.restore(seq, payload)


def codec_for(engine: Engine) -> Codec | None:
    """How this engine's KV leaves and returns; None where it cannot."""
    can = engine.info().capabilities
    if "blocks" in can:
        return BlockCodec(engine)
    if "save" in can:
        return SequenceCodec(engine, whole="whole_restore" in can or "trim" not in can)
    return None
