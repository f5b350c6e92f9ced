"""The child that quantises: `python -m backends.quantize SOURCE TARGET TYPE THREADS`, JSON lines about it on stdout.

llama.cpp does the work and may abort the process, which then is this one. TARGET '' only works out what would come.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections import Counter
from typing import Any

TYPES = {
    "F16": 1,
    "BF16": 32,
    "Q8_0": 7,
    "Q6_K": 18,
    "Q5_K_M": 17,
    "Q5_K_S": 16,
    "Q5_1": 9,
    "Q5_0": 8,
    "Q4_K_M": 15,
    "Q4_K_S": 14,
    "Q4_1": 3,
    "Q4_0": 2,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "Q3_K_L": 13,
    "Q3_K_M": 12,
    "Q3_K_S": 11,
    "Q2_K": 10,
}
"""llama.cpp's numbers (`enum llama_ftype`) of the types that need no importance matrix."""

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
_FALLBACK = re.compile(r"falling back to\s+(\S+)")
_SIZE = re.compile(r"quant size\s+=\s+([\d.]+) MiB")


class _Listener:
    """Reads the library's log, which is the only place where it tells how far it is."""

    def __init__(self) -> None:
        self.fallbacks: Counter[str] = Counter()
        self.tensors = 0
        self.mib = 0.0
        self.error = ""
        self._line = ""

    def hear(self, _level: int, text: bytes, _data: Any) -> None:
        # A line comes in pieces; what it says about the tensor is in the first of them.
        for piece in text.decode("utf-8", "replace").splitlines(keepends=True):
            self._line += piece
            if found := _TENSOR.search(piece):
                self.tensors = int(found[2])
                _tell({"tensor": int(found[1]), "of": int(found[2])})
            if piece.endswith("\n"):
                self._whole(self._line.strip())
                self._line = ""

    def _whole(self, line: str) -> None:
        if found := _FALLBACK.search(line):
            self.fallbacks[found[1].upper()] += 1
        elif found := _SIZE.search(line):
            self.mib = float(found[1])
        elif "failed to quantize" in line:
            self.error = line.partition("failed to quantize:")[2].strip()


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main(source: str, target: str, kind: str, threads: int) -> int:
    """Quantise; the last line is {"done": {...}} or {"failed": reason}. Returns the exit code."""
    import llama_cpp.llama_cpp as llama

    listener = _Listener()
    callback = llama.llama_log_callback(listener.hear)
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    params.nthread = threads
    # Whether it is wise is for the caller to say; the library would refuse all but float weights.
    params.allow_requantize = True
    params.dry_run = not target
    failed = llama.llama_model_quantize(os.fsencode(source), os.fsencode(target or source + ".none"), params)
    if failed:
        _tell({"failed": listener.error or "llama.cpp gave no reason"})
        return 1
    _tell(
        {
            "done": {
                "bytes": round(listener.mib * 2**20),
                "tensors": listener.tensors,
                "fallbacks": dict(listener.fallbacks),
            }
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
