"""Text to token ids and back for engines that have no vocabulary code of their own: one path for each kind of file.

A GGUF goes through llama.cpp's vocabulary, so that its ids are llama.cpp's; a model folder through `tokenizer.json`.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import llama_cpp.llama_cpp as llama
from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast

from backends.errors import ModelFileError
from backends.llama_vocab import LlamaVocab
from backends.token_names import FIM_NAMES, controls_in, ends_in
from backends.vocab_twin import BYTES, VocabTwin


class Vocabulary(Protocol):
    """An `engine.Tokenizer` that also knows what an EngineInfo says of it."""

    n_vocab: int
    eog: frozenset[int]
    add_bos: bool
    bos: str
    eos: str
    chat_template: str | None

    @property
    def pointer(self) -> Any: ...

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...

    def raw_piece(self, token: int) -> bytes: ...

    def control_tokens(self) -> dict[str, int]: ...

    def fim_tokens(self) -> dict[str, int]: ...


def open_tokenizer(path: Path, rows: int = 0) -> Vocabulary:
    """The vocabulary of a GGUF file or a model folder, whose model has logits for `rows` tokens (0: as many).

    Raises ModelFileError, which names the file.
    """
    return JsonVocabulary(path, rows) if path.is_dir() else GgufVocabulary(path)


class GgufVocabulary(LlamaVocab):
    """The vocabulary of a GGUF file, read by llama.cpp without its weights."""

    def __init__(self, path: Path) -> None:
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.vocab_only = True
        model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelFileError(f"{path.name} has no vocabulary that can be read", "use another build of this model")
        weakref.finalize(self, llama.llama_model_free, model)
        super().__init__(llama.llama_model_get_vocab(model))
        template = llama.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None
        self.bos = self.token_text(llama.llama_vocab_bos(self.pointer))
        self.eos = self.token_text(llama.llama_vocab_eos(self.pointer))


class JsonVocabulary:
    """A folder's `tokenizer.json`, with what the files beside it say of its control tokens. Safe from any thread.

    What llama.cpp takes for a control token by its spelling is one here too, so that a text has the same ids on every
    backend.
    """

    def __init__(self, folder: Path, rows: int = 0) -> None:
        source = folder / "tokenizer.json"
        if not source.exists():
            raise ModelFileError(f"{folder.name} has no tokenizer.json", "download the whole folder again")
        # Two of them, because whether control tokens count is a property of the object.
        self._special, self._plain = _opened(source), _opened(source)
        self._plain.encode_special_tokens = True
        self._described = _json(source)
        config = _json(folder / "tokenizer_config.json")
        self._ids: dict[str, int] = self._special.get_vocab(with_added_tokens=True)
        # Models often have a few rows more than there are tokens; nothing but noise would choose them.
        self.n_vocab = max(rows, max(self._ids.values()) + 1)
        if rows and self.n_vocab > rows:
            raise ModelFileError(
                f"{folder.name}/tokenizer.json has {self.n_vocab} tokens, the model {rows}", "use the model's own file"
            )
        added = self._special.get_added_tokens_decoder()
        self._control = {token: added[token].content for token in added if added[token].special}
        self._pieces = self._all_pieces({token: added[token].content for token in added})
        self.bos, self.eos = (_name(config.get(key)) for key in ("bos_token", "eos_token"))
        self.eog = self._ends(folder)
        self.add_bos = self._adds_bos(config)
        self.chat_template = _chat_template(folder, config)
        self._lock = threading.Lock()

    @property
    def pointer(self) -> Any:
        """A llama.cpp vocabulary of the same tokens, made at the first use (about 1 s for 150,000 tokens)."""
        with self._lock:
            return self._twin.pointer

    @cached_property
    def _twin(self) -> VocabTwin:
        merges = (self._described.get("model") or {}).get("merges") or []
        pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in merges]
        spelt = self._to_bytes
        return VocabTwin(self._pieces, self._control, [(spelt(left), spelt(right)) for left, right in pairs])

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Ids of `text`; a lone surrogate becomes `?`, as in `LlamaVocab`."""
        clean = text.encode("utf-8", "replace").decode()
        ids = list((self._special if special else self._plain).encode(clean, add_special_tokens=False).ids)
        return [self._ids[self.bos], *ids] if add_bos and self.add_bos else ids

    def piece(self, token: int) -> bytes:
        return b"" if token in self._control else self.raw_piece(token)

    def raw_piece(self, token: int) -> bytes:
        return self._pieces[token] if 0 <= token < self.n_vocab else b""

    def control_tokens(self) -> dict[str, int]:
        """Every control token by its spelling."""
        return {text: token for token, text in self._control.items()}

    def fim_tokens(self) -> dict[str, int]:
        """Ids of the fill-in-the-middle markers that this vocabulary has, by name."""
        found = {part: next((self._ids[n] for n in names if n in self._ids), -1) for part, names in FIM_NAMES.items()}
        return {part: token for part, token in found.items() if token >= 0}

    @property
    def _to_bytes(self) -> Callable[[str], bytes]:
        """How this vocabulary spells bytes."""
        return _byte_level if '"ByteLevel"' in json.dumps(self._described.get("decoder")) else _sentence_piece

    def _all_pieces(self, added: Mapping[int, str]) -> list[bytes]:
        pieces, to_bytes = [b""] * self.n_vocab, self._to_bytes
        for text, token in self._ids.items():
            pieces[token] = added[token].encode() if token in added else to_bytes(text)
        return pieces

    def _ends(self, folder: Path) -> frozenset[int]:
        found = {self._ids[name] for name in (self.eos, *ends_in(self._ids)) if name in self._ids}
        for name in ("generation_config.json", "config.json"):
            ids = _json(folder / name).get("eos_token_id")
            found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
        return frozenset(token for token in found if isinstance(token, int))

    def _adds_bos(self, config: Mapping[str, Any]) -> bool:
        if self.bos not in self._ids:
            return False
        said = config.get("add_bos_token")
        return bool(said) if said is not None else self._special.encode("").ids[:1] == [self._ids[self.bos]]


def _opened(source: Path) -> Fast:
    try:
        fast = Fast.from_file(str(source))
    except Exception as error:  # the library raises nothing narrower
        message = f"{source.parent.name}/{source.name} cannot be read: {error}"
        raise ModelFileError(message, "download it again") from error
    known = controls_in(fast.get_vocab(with_added_tokens=True))
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
    return fast


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; {} where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path.parent.name}/{path.name} cannot be read: {error.strerror}"
        raise ModelFileError(message, "check its permissions") from error
    except ValueError as error:
        raise ModelFileError(f"{path.parent.name}/{path.name} is no JSON: {error}", "download it again") from error
    return value if isinstance(value, dict) else {}


def _name(token: Any) -> str:
    """How a configuration names a control token: as text, or as an object with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _byte_level(text: str) -> bytes:
    return bytes(BYTES[c] for c in text) if all(c in BYTES for c in text) else text.encode()


def _sentence_piece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace("\u2581", " ").encode()
