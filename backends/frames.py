"""The wire between the daemon and an engine child: a little-endian u32 length, then one msgpack struct."""

from __future__ import annotations

import struct
from typing import BinaryIO, Generic, TypeVar

import msgspec

from backends.contract import FromChild, ToChild
from backends.errors import BackendError

T = TypeVar("T")
_LENGTH = struct.Struct("<I")
LARGEST = 256 * 2**20
"""Bytes; a longer frame can only be noise on the pipe."""

_encoder = msgspec.msgpack.Encoder()


def encode(frame: ToChild | FromChild) -> bytes:
    """One frame, length included."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class Decoder(Generic[T]):
    """Bytes in any cut to frames of type T. Raises BackendError for what cannot be a frame."""

    def __init__(self, kind: type[T]) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """All frames that are complete with `data`."""
        self._buffer += data
        frames: list[T] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer, at)
            if size > LARGEST:
                raise BackendError("noise on the engine's pipe", "see the engine's log")
            end = at + _LENGTH.size + size
            if len(self._buffer) < end:
                break
            try:
                frames.append(self._decode(memoryview(self._buffer)[at + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                raise BackendError(f"noise on the engine's pipe: {error}", "see the engine's log") from error
            at = end
        del self._buffer[:at]
        return frames


def child_decoder() -> Decoder[FromChild]:
    return Decoder(FromChild)  # type: ignore[arg-type]


def parent_decoder() -> Decoder[ToChild]:
    return Decoder(ToChild)  # type: ignore[arg-type]


def write(pipe: BinaryIO, frame: FromChild) -> None:
    """Write one frame whole and flush it."""
    pipe.write(encode(frame))
    pipe.flush()
