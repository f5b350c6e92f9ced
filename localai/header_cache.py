"""Short descriptions of GGUF files, remembered by path, time and size, so that listing many models stays fast.

Files enter; a HeaderSummary or the reason why the file is unusable leaves. Kept in one JSON file that may be deleted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.errors import ModelFileError
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from localai.atomic import replace_file
from localai.errors import OutOfResources

_log = logging.getLogger(__name__)

ADAPTER = "a LoRA adapter, not a model"
_NOT_MODELS = {
    "adapter": ADAPTER,
    "mmproj": "a projector for images, not a model",
    "imatrix": "an importance matrix, not a model",
    "vocab": "a vocabulary without weights",
}


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """What lists and choices need of a header. `parameters` counts all parts of a split model."""

    architecture: str
    name: str
    quant: str
    n_ctx_train: int | None
    parameters: int
    is_embedding: bool
    is_reranker: bool
    has_template: bool


Outcome = HeaderSummary | str
"""A summary, or the problem in words."""


class HeaderCache:
    """`describe` answers from memory, then from `path`, then by reading. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Outcome] | None = None
        self._dirty = False

    def describe(self, files: Sequence[Path]) -> Outcome:
        """Summarise the model in `files` (the parts of one model, in order)."""
        try:
            key = stamp(files)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except ValueError:
            return "cannot be read: that is no path"
        with self._lock:
            known = self._load()
            if key in known:
                return known[key]
        outcome = _read(files[0])
        with self._lock:
            known[key] = outcome
            self._dirty = True
        return outcome

    def save(self) -> None:
        """Write what was learnt; a home that cannot be written costs only the next listing's speed."""
        with self._lock:
            if not self._dirty or self._known is None:
                return
            self._dirty = False
            raw = msgspec.json.encode(self._known)
        try:
            replace_file(self._path, raw)
        except OutOfResources as error:
            _log.warning("model descriptions are not remembered: %s", error.message)

    def _load(self) -> dict[str, Outcome]:
        if self._known is None:
            self._known = {}
            try:
                self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Outcome])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.DecodeError) as error:
                _log.warning("model descriptions are read anew: %s", error)
        return self._known


def stamp(files: Sequence[Path]) -> str:
    """Paths, times and sizes: as long as this stays the same, so do the files. Raises OSError, ValueError."""
    stats = [(str(file), file.stat()) for file in files]
    return "|".join(f"{path}:{stat.st_mtime_ns}:{stat.st_size}" for path, stat in stats)


def _read(path: Path) -> Outcome:
    try:
        headers = read_shards(path)
        return _summary(headers)
    except ModelFileError as error:
        return error.message


def _summary(headers: Sequence[GgufHeader]) -> Outcome:
    first = headers[0]
    if first.kind in _NOT_MODELS:
        return _NOT_MODELS[first.kind]
    return HeaderSummary(
        architecture=_printable(first.architecture),
        name=_printable(first.name),
        quant=first.quant,
        n_ctx_train=first.n_ctx_train,
        parameters=sum(header.parameters for header in headers),
        is_embedding=first.is_embedding,
        is_reranker=first.is_reranker,
        has_template=first.chat_template is not None,
    )


def _printable(text: str) -> str:
    """Text from a file that may be hostile, safe for a terminal."""
    return "".join(char for char in text if char.isprintable())[:200]
