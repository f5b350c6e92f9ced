"""Lets llama.cpp map a file without reading it: while a model loads, its calls of mmap lose MAP_POPULATE. Linux only.

The library asks for the whole file to be read and mapped at once, which for a model larger than memory reads every
byte to throw most of them away, and stands far above any budget meanwhile. There is no setting for it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_MAP_POPULATE = 0x8000
_DYNSYM = 11
_RELA = 4
_FUNCTION_SLOTS = (6, 7, 1025, 1026)
"""Relocations that hold a function's address, of x86-64 and of 64-bit ARM."""
_HEADER = struct.Struct("<IIQQQQIIQQ")
_RELOCATION = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_ARGUMENTS = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_Mmap = ctypes.CFUNCTYPE(ctypes.c_void_p, *_ARGUMENTS)


@contextmanager
def unread(library: Path) -> Iterator[bool]:
    """Inside, what `library` maps is not read ahead. Yields False where its table of functions cannot be written."""
    slot = _writable_slot(library.resolve())
    if slot is None:
        yield False
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, list(_ARGUMENTS)

    def lazily(address: int, size: int, protection: int, flags: int, file: int, offset: int) -> int:
        return int(libc.mmap(address, size, protection, flags & ~_MAP_POPULATE, file, offset))

    ours = _Mmap(lazily)
    place = ctypes.c_void_p.from_address(slot)
    before = place.value
    place.value = ctypes.cast(ours, ctypes.c_void_p).value
    try:
        yield True
    finally:
        place.value = before


def _writable_slot(library: Path) -> int | None:
    """The address from which the loaded library takes mmap's; None where there is none that may be written."""
    offset = _offset(library.read_bytes(), b"mmap")
    if offset is None:
        return None
    base = None
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if len(fields) == 6 and fields[5] == str(library) and base is None:
            base = start - int(fields[2], 16)
        if base is not None and start <= base + offset < end:
            return base + offset if "w" in fields[1] else None
    return None


def _offset(image: bytes, name: bytes) -> int | None:
    """Where a 64-bit little-endian ELF image keeps the address of an imported function, from its load address on."""
    if image[:6] != b"\x7fELF\x02\x01":
        return None
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [_HEADER.unpack_from(image, table + size * index) for index in range(count)]
    symbols = next((s for s in sections if s[1] == _DYNSYM), None)
    if symbols is None:
        return None
    names = sections[symbols[6]][4]
    for section in (s for s in sections if s[1] == _RELA):
        for found in np.frombuffer(image, _RELOCATION, section[5] // _RELOCATION.itemsize, section[4]):
            if found["kind"] in _FUNCTION_SLOTS:
                (at,) = struct.unpack_from("<I", image, symbols[4] + 24 * int(found["symbol"]))
                if image[names + at : names + at + len(name) + 1] == name + b"\0":
                    return int(found["offset"])
    return None
