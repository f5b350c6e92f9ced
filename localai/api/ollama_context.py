"""`context` of /api/generate: the conversation so far as a list of numbers, which only this daemon reads back.

Stateless: the numbers are the packed conversation itself, so they outlive a restart and need no memory here.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from localai.errors import BadRequest
from localai.messages import Message, Role

_MARK = 0x4C41
_MOST_BYTES = 4 << 20
_WIDTH = 3
_Turns = list[tuple[Role, str]]


def pack(messages: Sequence[Message]) -> list[int]:
    """Numbers below 2**24 that say what was said."""
    raw = zlib.compress(msgspec.json.encode([(m.role, m.content) for m in messages]))
    padded = raw + b"\0" * (-len(raw) % _WIDTH)
    return [_MARK, len(raw), *(int.from_bytes(padded[at : at + _WIDTH]) for at in range(0, len(padded), _WIDTH))]


def unpack(context: Sequence[int]) -> tuple[Message, ...]:
    """What `pack` made these numbers of. Raises BadRequest for any others."""
    try:
        mark, length, *rest = context
        raw = b"".join(number.to_bytes(_WIDTH) for number in rest)[:length]
        stream = zlib.decompressobj()
        text = stream.decompress(raw, _MOST_BYTES)
        if mark != _MARK or not stream.eof:
            raise ValueError
        turns = msgspec.json.decode(text, type=_Turns)
    except (ValueError, OverflowError, zlib.error, msgspec.MsgspecError) as error:
        message = "`context` is not one that this daemon gave"
        raise BadRequest(
            message, "send back the numbers of the last answer, or use /api/chat", param="context"
        ) from error
    return tuple(Message(role, content) for role, content in turns)
