"""The tensors of ggml as they lie in memory: their names, sources and data, and where to put other data.

Addresses of tensors enter. The layout is that of the pinned version's ggml.h, checked against the library itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.errors import BackendError

_SOURCES = 10


class Tensor(ctypes.Structure):
    """`ggml_tensor`."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class _Arena(ctypes.Structure):
    """`ggml_init_params`."""

    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_base = ctypes.CDLL(str(Path(llama.__file__).parent / "lib" / "libggml-base.so"))
_base.ggml_get_name.restype = ctypes.c_char_p
_base.ggml_get_name.argtypes = [ctypes.c_void_p]
_base.ggml_init.restype = ctypes.c_void_p
_base.ggml_init.argtypes = [_Arena]
_base.ggml_free.argtypes = [ctypes.c_void_p]
_base.ggml_new_tensor_1d.restype = ctypes.c_void_p
_base.ggml_new_tensor_1d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
_base.ggml_view_1d.restype = ctypes.c_void_p
_base.ggml_view_1d.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t]
_base.ggml_set_name.restype = ctypes.c_void_p
_base.ggml_set_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_base.ggml_get_data.restype = ctypes.c_void_p
_base.ggml_get_data.argtypes = [ctypes.c_void_p]

_VIEW_OF = Tensor.view_src.offset


def name_of(tensor: int) -> bytes:
    return bytes(_base.ggml_get_name(tensor))


def sources(tensor: int) -> list[tuple[int, int]]:
    """Addresses of the tensors that this one is computed from, each with that of its data."""
    found = [at for at in Tensor.from_address(tensor).src if at]
    return [(at, Tensor.from_address(at).data or 0) for at in found]


def viewed(tensor: int) -> int:
    """Address of the tensor whose data this one shows, 0 where it has its own."""
    return ctypes.c_void_p.from_address(tensor + _VIEW_OF).value or 0


def put(tensor: int, data: int) -> None:
    """Let a tensor's data be at `data`. Nothing may be computing with it."""
    Tensor.from_address(tensor).data = data


def follow(view: int) -> None:
    """Let a view show where the data of what it views is now."""
    own = Tensor.from_address(view)
    own.data = (Tensor.from_address(own.view_src).data or 0) + own.view_offs


def choices(tensor: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """A router's: rows of `ne[0]` ids, one per token, `nb[1]` bytes apart.

    There are no rows in the last layer of a step from which no logits are wanted.
    """
    head = Tensor.from_address(tensor)
    used, rows, stride = head.ne[0], head.ne[1], head.nb[1]
    if not rows:
        return np.empty(0, np.int32)
    size = (rows - 1) * stride + used * 4
    flat = np.frombuffer((ctypes.c_char * size).from_address(head.data), np.int32)
    return np.lib.stride_tricks.as_strided(flat, (rows, used), (stride, 4)).ravel()


@cache
def check_layout() -> None:
    """Raises BackendError where the library lays tensors out in another way than this module takes for granted."""
    arena = _base.ggml_init(_Arena(1 << 16, None, False))
    try:
        whole = _base.ggml_new_tensor_1d(arena, 0, 8)
        view = _base.ggml_view_1d(arena, whole, 2, 12)
        _base.ggml_set_name(view, b"part")
        seen = Tensor.from_address(view)
        told = (viewed(view), seen.view_offs, seen.src[0], seen.data, seen.name, seen.ne[0], seen.nb[0])
        if told != (whole, 12, whole, _base.ggml_get_data(whole) + 12, b"part", 2, 4):
            raise BackendError(
                "this build of llama.cpp lays its tensors out in another way, so weights cannot be paged",
                "install the version of llama-cpp-python that this version of localai asks for",
            )
    finally:
        _base.ggml_free(arena)
