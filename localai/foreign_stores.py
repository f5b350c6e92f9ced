"""Finds the models that other programs keep on this machine: Ollama, LM Studio and the hub's own cache.

Folders enter, `Found` models leave; files are only looked at, never opened for writing, moved or copied.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localai.gguf_names import groups
from localai.model_folders import Format, folder_files, format_of
from localai.presets import Preset

Origin = Literal["starter", "pulled", "imported", "ollama", "lmstudio", "hub", "file"]

_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOB = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A model on the disk that nobody has looked into yet. `files` are its parts in order, `digest` SHA-256.

    `folder` is set where the model is a whole folder, in MLX's or ONNX's layout as `format` tells.
    With `base`, the file is an adapter to be applied to that model with the strength `scale`; a `preset` has no file.
    """

    id: str
    files: tuple[Path, ...]
    origin: Origin
    digest: str | None = None
    repo: str | None = None
    spec_id: str | None = None
    problem: str | None = None
    format: Format = "gguf"
    folder: Path | None = None
    base: str | None = None
    scale: float = 1.0
    preset: Preset | None = None


@dataclass(frozen=True, slots=True)
class Stores:
    """Where other programs keep their models; folders that do not exist are skipped."""

    ollama: tuple[Path, ...] = ()
    lmstudio: tuple[Path, ...] = ()
    hub: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Stores:
        """The places that each program uses, its environment variables honoured."""
        user = Path(environ.get("HOME") or Path.home())
        ollama = environ.get("OLLAMA_MODELS")
        cache = Path(environ.get("XDG_CACHE_HOME") or user / ".cache")
        hub_home = Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()
        hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or hub_home / "hub"
        return cls(
            ollama=(Path(ollama),) if ollama else (user / ".ollama/models", Path("/usr/share/ollama/.ollama/models")),
            lmstudio=(user / ".lmstudio/models", user / ".cache/lm-studio/models"),
            hub=(Path(hub).expanduser(),),
        )

    def find(self) -> Iterator[Found]:
        """Everything in all stores; the same id may come twice."""
        for root in self.ollama:
            yield from _ollama(root)
        for root in self.lmstudio:
            yield from _lmstudio(root)
        for root in self.hub:
            yield from _hub(root)


def gguf_files(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Models in a folder and below: the stem of each name, and its files in order."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files if name.endswith(".gguf")]
    for group in groups(names):
        yield group.stem, tuple(folder / name for name in group.files)


def found_folder(name: str, folder: Path, origin: Origin, repo: str | None = None) -> Iterator[Found]:
    """The model that `folder` is as a whole; nothing where it is none."""
    layout = format_of(folder)
    if layout is not None:
        yield Found(name, folder_files(folder, layout), origin, repo=repo, format=layout, folder=folder)


def _ollama(root: Path) -> Iterator[Found]:
    manifests = root / "manifests"
    for parent, folders, files in os.walk(manifests):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            parts = path.relative_to(manifests).parts
            if len(parts) >= 3 and not name.startswith("."):
                yield from _ollama_manifest(root, path, parts)


def _ollama_manifest(root: Path, path: Path, parts: tuple[str, ...]) -> Iterator[Found]:
    host, *namespace, tag = parts
    repo = "/".join(namespace) if host in ("hf.co", "huggingface.co") else None
    if host == "registry.ollama.ai":
        namespace = namespace[1:] if namespace[0] == "library" else namespace
    else:
        namespace = [host, *namespace]
    name = f"ollama:{'/'.join(namespace)}:{tag}"
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise ValueError("too large")
        manifest = json.loads(path.read_bytes())
        layers = [layer for layer in manifest["layers"] if layer["mediaType"] == _MODEL_LAYER]
        digests = [_DIGEST.fullmatch(layer["digest"]) for layer in layers]
    except (OSError, ValueError, KeyError, TypeError):
        yield Found(name, (path,), "ollama", problem="Ollama's manifest cannot be read")
        return
    for digest in digests:
        if digest is None:
            yield Found(name, (path,), "ollama", problem="Ollama's manifest names no valid digest")
        else:
            yield Found(name, (root / "blobs" / f"sha256-{digest[1]}",), "ollama", digest=digest[1], repo=repo)


def _lmstudio(root: Path) -> Iterator[Found]:
    for stem, files in gguf_files(root):
        parts = files[0].relative_to(root).parts
        repo = "/".join(parts[:2]) if len(parts) >= 3 else None
        yield Found(f"lmstudio:{repo}/{stem}" if repo else f"lmstudio:{stem}", files, "lmstudio", repo=repo)
    for folder in sorted(root.glob("*/*/")):
        repo = folder.relative_to(root).as_posix()
        yield from found_folder(f"lmstudio:{repo}", folder, "lmstudio", repo)


def _hub(root: Path) -> Iterator[Found]:
    for folder in sorted(root.glob("models--*")):
        owner, _, rest = folder.name.removeprefix("models--").partition("--")
        repo = f"{owner}/{rest.replace('--', '/')}"
        snapshot = _snapshot(folder)
        for stem, files in gguf_files(snapshot) if snapshot else ():
            blob = files[0].resolve().name
            digest = blob if len(files) == 1 and _BLOB.fullmatch(blob) else None
            yield Found(f"hub:{repo}/{stem}", files, "hub", digest=digest, repo=repo)
        if snapshot is not None:
            yield from found_folder(f"hub:{repo}", snapshot, "hub", repo)


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that `main` names, else the newest one."""
    try:
        named = folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8").strip()
        if named.is_dir() and named.parent == folder / "snapshots":
            return named
    except (OSError, ValueError):
        pass
    snapshots = [path for path in folder.glob("snapshots/*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)
