"""A llama_batch that slices of token sequences are copied into. Knows neither model nor context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.engine import Slice


class Batch:
    """A llama_batch over numpy arrays, filled by slices instead of an element at a time."""

    def __init__(self, size: int) -> None:
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._counts = np.ones(size, np.int32)
        self._seqs = np.zeros(size, np.int32)
        self._outputs = np.zeros(size, np.int8)
        addresses = self._seqs.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        self._seq_pointers = addresses.astype(np.uint64)
        fields = dict(llama.llama_batch._fields_)
        self.raw = llama.llama_batch()
        self.raw.token = ctypes.cast(self._tokens.ctypes.data, fields["token"])
        self.raw.pos = ctypes.cast(self._positions.ctypes.data, fields["pos"])
        self.raw.n_seq_id = ctypes.cast(self._counts.ctypes.data, fields["n_seq_id"])
        self.raw.seq_id = ctypes.cast(self._seq_pointers.ctypes.data, fields["seq_id"])
        self.raw.logits = ctypes.cast(self._outputs.ctypes.data, fields["logits"])

    def fill(self, batch: Sequence[Slice]) -> Any:
        at = 0
        for part in batch:
            end = at + len(part.tokens)
            self._tokens[at:end] = part.tokens
            self._positions[at:end] = range(part.pos, part.pos + len(part.tokens))
            self._seqs[at:end] = part.seq
            self._outputs[at:end] = part.want in ("all", "embed")
            if part.want == "last":
                self._outputs[end - 1] = 1
            at = end
        self.raw.n_tokens = at
        return self.raw
