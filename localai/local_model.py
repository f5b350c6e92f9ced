"""What is known of one model on this machine, wherever it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backends.contract import Adapter
from localai.catalog import ModelSpec
from localai.foreign_stores import Origin
from localai.header_cache import HeaderSummary
from localai.model_folders import Format
from localai.presets import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model that can be opened at `path`: the first of `files`, or the folder they lie in, as `format` tells.

    `digest` is a SHA-256 that somebody vouches for, None where nobody does. `header` is None where `problem` says why.
    A sibling is `adapters` or a `preset` over a `base`, whose header it shows; its own files and size are theirs.
    """

    id: str
    path: Path
    files: tuple[Path, ...]
    origin: Origin
    size_bytes: int
    digest: str | None
    spec: ModelSpec | None
    repo: str | None
    header: HeaderSummary | None
    problem: str | None
    format: Format = "gguf"
    base: LocalModel | None = None
    adapters: tuple[Adapter, ...] = ()
    preset: Preset | None = None
