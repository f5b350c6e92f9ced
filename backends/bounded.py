"""Reads forward through a stream whose length is known, for parsers of files that nobody vouches for.

Every count is held against what the stream still has before memory is taken. Knows numbers and strings, not formats.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from backends.errors import ModelFileError

WINDOW = 1 << 18
RETRY = "download the file again, or convert the model again"

_LENGTH = struct.Struct("<Q")


class BoundedReader:
    """A cursor over the first `limit` bytes of `stream`; `what` names the field in the errors (ModelFileError)."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.size = stream.seek(0, os.SEEK_END)
        self._limit = limit
        self._stream = stream
        self.seek(0)

    @property
    def offset(self) -> int:
        return self._base + self._pos

    @property
    def remaining(self) -> int:
        return self.size - self.offset

    def seek(self, offset: int) -> None:
        """Go to an offset that the caller has checked."""
        self._stream.seek(offset)
        self._base, self._pos, self._window = offset, 0, b""

    def need(self, count: int, what: str) -> None:
        """Raise unless `count` more bytes are there."""
        if count > self.remaining:
            raise ModelFileError(
                f"{what} needs {count} bytes at offset {self.offset}, the file has {self.remaining} left", RETRY
            )
        if self.offset + count > self._limit:
            raise ModelFileError(f"{what} lies past the first {self._limit} bytes, where a header must end", RETRY)

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self._fill(count, what)
        start = self._pos
        self._pos += count
        return self._window[start : self._pos]

    def skip(self, count: int, what: str) -> None:
        self.need(count, what)
        if self._pos + count <= len(self._window):
            self._pos += count
        else:
            self.seek(self.offset + count)

    def unsigned(self, what: str, width: int = 8) -> int:
        return int.from_bytes(self.take(width, what), "little")

    def string(self, what: str, limit: int) -> str:
        length = self.unsigned(f"the length of {what}")
        if length > limit:
            raise ModelFileError(f"{what} claims {length} bytes, at most {limit} are allowed", RETRY)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{what} is not UTF-8 text", RETRY) from error

    def skip_strings(self, count: int, what: str) -> None:
        """Walk over `count` strings without keeping them; token lists make this the hot loop of a listing."""
        unpack = _LENGTH.unpack_from
        left = count
        while left:
            self.need(left * _LENGTH.size, what)
            self._fill(_LENGTH.size, what)
            window, pos, last = self._window, self._pos, len(self._window) - _LENGTH.size
            while left and pos <= last:
                pos += _LENGTH.size + unpack(window, pos)[0]
                left -= 1
            self.skip(pos - self._pos, what)

    def _fill(self, count: int, what: str) -> None:
        """Hold at least `count` bytes from here on; the caller has checked that the stream has them."""
        held = len(self._window) - self._pos
        if held >= count:
            return
        parts = [self._window[self._pos :]]
        self._base, self._pos = self.offset, 0
        wanted = min(max(count, WINDOW), self.size - self._base)
        while held < wanted:
            try:
                part = self._stream.read(wanted - held)
            except OSError as error:
                raise ModelFileError(f"{what} cannot be read: {error.strerror}", "check the disk") from error
            if not part:
                raise ModelFileError(f"the file became shorter while {what} was read", RETRY)
            parts.append(part)
            held += len(part)
        self._window = b"".join(parts)
