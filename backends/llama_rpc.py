"""Workers on other machines that llama.cpp computes a part of the layers on, through its own RPC protocol.

Addresses enter, devices of the library leave. The library aborts the process where a worker does not answer, so the
daemon looks before, and a worker that goes away later costs this child.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

from backends.errors import BackendError, MissingExtra

_ADD = b"ggml_backend_rpc_add_server"


def add_workers(endpoints: Sequence[str]) -> None:
    """Make the devices of `host:port` workers known to the library, before a model is loaded.

    Raises MissingExtra where the library was built without RPC, BackendError where it knows no way to add one.
    """
    if not llama.llama_supports_rpc():
        raise MissingExtra("the installed llama.cpp was built without RPC (GGML_RPC)", "build it with -DGGML_RPC=ON")
    library: Any = llama._lib
    by_name, address, register = (
        library.ggml_backend_reg_by_name,
        library.ggml_backend_reg_get_proc_address,
        library.ggml_backend_register,
    )
    by_name.restype, by_name.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    register.restype, register.argtypes = None, [ctypes.c_void_p]
    found = address(by_name(b"RPC"), _ADD)
    if not found:
        raise BackendError("this llama.cpp cannot add RPC workers", "install the pinned version again")
    add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(found)
    for endpoint in endpoints:
        worker = add(endpoint.encode())
        if not worker:
            raise BackendError(f"the RPC worker {endpoint} offers no device", "start it with the same llama.cpp build")
        register(worker)
