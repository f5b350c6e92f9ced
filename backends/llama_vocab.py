"""Text to token ids and back through llama.cpp's own vocabulary code. Knows nothing of contexts or sequences."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import llama_cpp.llama_cpp as llama

from backends.errors import ModelFileError

_PIECE_BYTES = 4096


class LlamaVocab:
    """A `engine.Tokenizer` over a llama.cpp vocabulary pointer; safe from any thread, as the vocabulary is constant.

    `pointer` stays valid only while the model that it belongs to is loaded.
    """

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.n_vocab: int = llama.llama_vocab_n_tokens(pointer)
        self.add_bos: bool = llama.llama_vocab_get_add_bos(pointer)
        self.eog = frozenset(t for t in range(self.n_vocab) if llama.llama_vocab_is_eog(pointer, t))
        self.piece = lru_cache(maxsize=None)(self._piece)
        self.raw_piece = lru_cache(maxsize=None)(self._raw_piece)

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Ids of `text`; a lone surrogate becomes U+FFFD, as the vocabulary knows UTF-8 only."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.pointer, data, len(data), buffer, room, add_bos, special)
        if count < 0:
            room = -count
            buffer = (llama.llama_token * room)()
            count = llama.llama_tokenize(self.pointer, data, len(data), buffer, room, add_bos, special)
        if count < 0:
            raise ModelFileError("the model's vocabulary could not encode the text", "use another build of this model")
        return list(buffer[:count])

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, control tokens spelt out."""
        return b"".join(self.raw_piece(t) for t in tokens).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """How the vocabulary spells `token`; '' where it has no such token (id -1)."""
        return self.raw_piece(token).decode("utf-8", "replace") if token >= 0 else ""

    def control_tokens(self) -> dict[str, int]:
        """Every control token by its spelling, for formats whose markers may be single tokens."""
        control = (t for t in range(self.n_vocab) if llama.llama_vocab_is_control(self.pointer, t))
        return {self.token_text(t): t for t in control}

    def fim_tokens(self) -> dict[str, int]:
        """Ids of the fill-in-the-middle markers that this vocabulary has, by name."""
        found = {
            "prefix": llama.llama_vocab_fim_pre(self.pointer),
            "suffix": llama.llama_vocab_fim_suf(self.pointer),
            "middle": llama.llama_vocab_fim_mid(self.pointer),
            "repo": llama.llama_vocab_fim_rep(self.pointer),
            "file": llama.llama_vocab_fim_sep(self.pointer),
        }
        return {name: token for name, token in found.items() if token >= 0}

    def _piece(self, token: int) -> bytes:
        return self._to_bytes(token, spell_control=False)

    def _raw_piece(self, token: int) -> bytes:
        return self._to_bytes(token, spell_control=True)

    def _to_bytes(self, token: int, *, spell_control: bool) -> bytes:
        if not 0 <= token < self.n_vocab:
            return b""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        count = llama.llama_token_to_piece(self.pointer, token, buffer, _PIECE_BYTES, 0, spell_control)
        return buffer.raw[:count] if count > 0 else b""
