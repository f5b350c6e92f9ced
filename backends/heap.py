"""Gives memory that was freed back to the system, where the C library keeps it for itself (glibc)."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def _library() -> ctypes.CDLL | None:
    """None where the C library has no such call, as on macOS and musl, which keep less."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def give_back() -> None:
    """Takes milliseconds: for the end of long work, and not for each token."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)
