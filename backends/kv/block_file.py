"""One block in one file: a header with key and checksum, then the engine's bytes. Whole or not there at all.

Knows the format only; which files there should be is the index's business.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from backends.kv.keys import FORMAT

_HEADER = struct.Struct("<4sI32sQ32s")
_MAGIC = b"LAKV"
OVERHEAD = _HEADER.size
"""Bytes of a file beside its content."""
SUFFIX, UNFINISHED = ".kv", ".part"


class BadBlock(Exception):
    """A block file that must not be used: missing, cut short, changed, or another block's."""


def place(folder: Path, key: bytes) -> Path:
    """Where the block `key` lies under the cache's folder."""
    name = key.hex()
    return folder / name[:2] / (name + SUFFIX)


def write(path: Path, key: bytes, payload: bytearray) -> None:
    """Write a block. Raises OSError; what was begun then is removed.

    It is not forced to the disk: after a power cut the checksum tells what did not arrive.
    """
    unfinished = path.with_suffix(f".{os.getpid()}{UNFINISHED}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(unfinished, "wb", buffering=0, opener=_private) as file:
            file.write(_HEADER.pack(_MAGIC, FORMAT, key, len(payload), _checksum(key, payload)))
            left = memoryview(payload)
            while left:
                left = left[file.write(left) :]
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def read(path: Path, key: bytes) -> bytearray:
    """The content of the block `key`. Raises BadBlock."""
    try:
        with path.open("rb", buffering=0) as file:
            header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size - _HEADER.size
            payload = bytearray(max(0, size))
            left = memoryview(payload)
            while left and (count := file.readinto(left)):
                left = left[count:]
    except OSError as error:
        raise BadBlock(error.strerror or "cannot be read") from error
    if left or len(header) < _HEADER.size:
        raise BadBlock("cut short")
    magic, form, named, length, checksum = _HEADER.unpack(header)
    if (magic, form, length) != (_MAGIC, FORMAT, len(payload)):
        raise BadBlock("no block of this version")
    if named != key or checksum != _checksum(key, payload):
        raise BadBlock("its checksum does not match" if named == key else "another block")
    return payload


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _checksum(key: bytes, payload: bytearray) -> bytes:
    found = hashlib.sha256(key)
    found.update(payload)
    return found.digest()
