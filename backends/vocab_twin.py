"""A llama.cpp vocabulary made from the tokens of another library's: what llama.cpp's samplers need to read texts.

Byte strings of tokens enter, a pointer leaves. It is written as a GGUF without tensors, loaded, and removed.
"""

from __future__ import annotations

import struct
import tempfile
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from backends.errors import ModelFileError

_NORMAL, _CONTROL = 1, 3
_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 as it is, the others moved to 256 and up, in order."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _byte_alphabet()
"""The byte that each character of a byte-level vocabulary stands for."""
_CHARACTERS = {byte: character for character, byte in BYTES.items()}


class VocabTwin:
    """Holds `pointer`, valid as long as this object. Token i has the bytes `pieces[i]`; `control` tokens have no text.

    `merges` pairs pieces in the order in which they merge; without them longer texts fall into single bytes.
    """

    def __init__(
        self, pieces: Sequence[bytes], control: Collection[int], merges: Sequence[tuple[bytes, bytes]]
    ) -> None:
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.vocab_only = True
        with tempfile.TemporaryDirectory(prefix="localai-vocabulary-") as folder:
            path = Path(folder, "vocabulary.gguf")
            path.write_bytes(_gguf(pieces, control, merges))
            model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelFileError("llama.cpp cannot read this model's vocabulary", "set dry_multiplier to 0")
        weakref.finalize(self, llama.llama_model_free, model)
        self.pointer: Any = llama.llama_model_get_vocab(model)


def _gguf(pieces: Sequence[bytes], control: Collection[int], merges: Sequence[tuple[bytes, bytes]]) -> bytes:
    kinds = [_CONTROL if token in control else _NORMAL for token in range(len(pieces))]
    joined = [f"{_spelt(left)} {_spelt(right)}" for left, right in merges]
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    entries = [
        _entry("general.architecture", _STRING, _string("llama")),
        *(_entry(f"llama.{size}", _U32, struct.pack("<I", 1)) for size in sizes),
        _entry("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)),
        _entry("tokenizer.ggml.model", _STRING, _string("gpt2")),
        _entry("tokenizer.ggml.pre", _STRING, _string("default")),
        _entry("tokenizer.ggml.tokens", _ARRAY, _strings(_names(pieces, control))),
        _entry("tokenizer.ggml.token_type", _ARRAY, struct.pack(f"<IQ{len(kinds)}i", _I32, len(kinds), *kinds)),
        _entry("tokenizer.ggml.merges", _ARRAY, _strings(joined)),
    ]
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)) + b"".join(entries)


def _names(pieces: Sequence[bytes], control: Collection[int]) -> list[str]:
    """A name of its own for each token: the library stops at one that comes twice, as a byte and as a letter may."""
    names: dict[str, int] = {}
    for token, piece in enumerate(pieces):
        name = piece.decode("utf-8", "replace") if token in control else _spelt(piece)
        names[name if name and name not in names else f"[{token}]"] = token
    return list(names)


def _spelt(piece: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in piece)


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _strings(texts: Sequence[str]) -> bytes:
    return struct.pack("<IQ", _STRING, len(texts)) + b"".join(map(_string, texts))
