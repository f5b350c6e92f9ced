"""The LoRA adapters of one llama.cpp context: loaded when first asked for, kept, and switched between.

Every file is checked against the base first, because the library aborts the process on some that it does not expect.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.contract import Adapter
from backends.errors import BackendError, ModelFileError, OutOfMemory
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader, TensorInfo
from backends.lora import ADAPTERS_KEPT, Lora, read_fitting, refuse_bad_choice

_Key = tuple[str, str]


class LlamaAdapters:
    """Adapters over `model`, which was read from `base`; `reason` gives the library's newest error text."""

    def __init__(self, model: Any, context: Any, base: Path, reason: Callable[[], str]) -> None:
        self._model = model
        self._context = context
        self._base = base
        self._reason = reason
        self._headers: tuple[GgufHeader, ...] = ()
        self._loaded: OrderedDict[_Key, Any] = OrderedDict()

    def use(self, adapters: tuple[Adapter, ...]) -> None:
        """Apply these to every later step. Raises BackendError; then none are applied."""
        refuse_bad_choice(adapters)
        keys = [(adapter.path, adapter.stamp) for adapter in adapters]
        missing = [key for key in keys if key not in self._loaded]
        if missing:
            self._apply([], [])
        for key in missing:
            self._make_room(keys)
            self._loaded[key] = self._load(Path(key[0]))
        for key in keys:
            self._loaded.move_to_end(key)
        self._apply([self._loaded[key] for key in keys], [adapter.scale for adapter in adapters])

    def _apply(self, pointers: list[Any], scales: list[float]) -> None:
        array = (llama.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)
        llama.llama_set_adapters_lora(self._context, array, len(pointers), (ctypes.c_float * len(scales))(*scales))

    def _make_room(self, wanted: list[_Key]) -> None:
        """Free the longest unused ones; none is applied now."""
        for key in [key for key in self._loaded if key not in wanted][: len(self._loaded) - ADAPTERS_KEPT + 1]:
            llama.llama_adapter_lora_free(self._loaded.pop(key))

    def _load(self, path: Path) -> Any:
        if not self._headers:
            self._headers = read_shards(self._base)
        lora = read_fitting(path, self._headers, self._base.name)
        _refuse_odd_numbers(path, lora)
        pointer = llama.llama_adapter_lora_init(self._model, str(path).encode())
        if not pointer:
            raise _load_error(path.name, self._reason())
        return pointer

    def close(self) -> None:
        """Free all of them; the model and its context must still be there."""
        self._apply([], [])
        while self._loaded:
            llama.llama_adapter_lora_free(self._loaded.popitem()[1])


def _refuse_odd_numbers(path: Path, lora: Lora) -> None:
    """One value that is no number would make every logit none."""
    for tensor in (tensor for pair in lora.pairs for tensor in (pair.a, pair.b)):
        if not np.isfinite(_floats(path, tensor)).all():
            raise ModelFileError(f"{path.name}: {tensor.name!r} holds values that are no numbers", "train it again")


def _floats(path: Path, tensor: TensorInfo) -> Any:
    """The values of a tensor, of Q8_0 the scales; float32 or float16 of any shape."""
    raw = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.size,))
    if tensor.type == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if tensor.type == "Q8_0":
        return np.ascontiguousarray(raw.reshape(-1, 34)[:, :2]).view("<f2")
    return raw.view("<f4" if tensor.type == "F32" else "<f2")


def _load_error(file: str, reason: str) -> BackendError:
    if "alloc" in reason:
        return OutOfMemory(f"{file} does not fit into memory", "unload other models, or use fewer adapters")
    return ModelFileError(f"llama.cpp cannot load {file}: {reason}", "convert the adapter again")
