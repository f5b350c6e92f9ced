"""What the installed llama.cpp build can do: nothing enters, one JSON object leaves on standard output.

Run as `python -m backends.probe` in a process of its own, for a GPU driver may crash it or write to standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

from backends.errors import BackendError, MissingExtra

_KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")  # ggml_backend_dev_type


def describe() -> dict[str, Any]:
    """The fields of `localai.engine_build.EngineBuild`. Raises MissingExtra where the library cannot be loaded."""
    try:
        import llama_cpp
        from llama_cpp import llama_cpp as native
        from llama_cpp._ggml import libggml
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"llama-cpp-python cannot be loaded: {error}"
        raise MissingExtra(reason, "reinstall it: pip install --force-reinstall llama-cpp-python") from error
    native.llama_backend_init()
    return {
        "package": "llama-cpp-python",
        "version": llama_cpp.__version__,
        "llama_version": native.llama_version().decode(),
        "backends": _backends(libggml),
        "devices": _devices(libggml),
        "features": features(native.llama_print_system_info().decode()),
        "gpu_offload": native.llama_supports_gpu_offload(),
        "rpc": native.llama_supports_rpc(),
        "mmap": native.llama_supports_mmap(),
        "mlock": native.llama_supports_mlock(),
        "library": native._lib._name,
    }


def features(system_info: str) -> list[str]:
    """Names that are on in a line such as `CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0 | `, in lower case."""
    found = []
    for item in system_info.split("|"):
        name, mark, value = item.rpartition("=")
        if mark and value.strip() not in ("", "0"):
            found.append(name.rpartition(" : ")[2].strip().lower())
    return sorted(found)


def _backends(ggml: ctypes.CDLL) -> list[str]:
    count = _function(ggml, "ggml_backend_reg_count", ctypes.c_size_t)
    get = _function(ggml, "ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function(ggml, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return [name(get(index)).decode() for index in range(count())]


def _devices(ggml: ctypes.CDLL) -> list[dict[str, Any]]:
    count = _function(ggml, "ggml_backend_dev_count", ctypes.c_size_t)
    get = _function(ggml, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function(ggml, "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    text = _function(ggml, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _function(ggml, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    sizes = ctypes.POINTER(ctypes.c_size_t)
    memory = _function(ggml, "ggml_backend_dev_memory", None, ctypes.c_void_p, sizes, sizes)
    found = []
    for device in map(get, range(count())):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            {
                "name": name(device).decode(),
                "description": text(device).decode(errors="replace"),
                "kind": _KINDS[kind(device)] if kind(device) < len(_KINDS) else "other",
                "memory_bytes": total.value or None,
            }
        )
    return found


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(library, name)
    found.restype, found.argtypes = result, list(arguments)
    return found


def main() -> None:
    """Keep standard output for the answer alone, and leave before any library's exit code runs."""
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = describe()
    except BackendError as error:
        answer = {"kind": error.kind, "message": error.message, "hint": error.hint}
    os.write(answers, json.dumps(answer).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
