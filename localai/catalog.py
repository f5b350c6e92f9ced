"""The models that localai knows by name: `models.toml` beside the package, overlaid by the one in the home folder.

TOML enters, frozen specs leave; a wrong entry raises ConfigError with file, entry, key and expected type.
Knows nothing of what is on the disk (see `library`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from localai.errors import ConfigError

Capability = Literal["chat", "tools", "reasoning", "fim", "embedding", "rerank"]
SamplingField = Literal["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Repo = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!.*\.\.)[^\\\0]+\.gguf$")]
Count = Annotated[int, msgspec.Meta(gt=0)]

FILE = "models.toml"


class QuantFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quantisation in a repository; of a split model, its first part. `bytes` is approximate."""

    file: FileName
    bytes: Count | None = None
    sha256: Sha256 | None = None


class GgufSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hub repository with GGUF files."""

    repo: Repo
    quants: dict[str, QuantFile] = {}
    revision: str = "main"


class PackageSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Python package that carries the file; `extra` is the extra of ours that installs it."""

    module: str
    requirement: str
    file: FileName
    bytes: Count
    sha256: Sha256
    extra: str | None = None


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue; the keys are explained at the top of `models.toml`."""

    id: Name
    name: str
    family: str
    parameters: Count
    licence: str
    context: Count
    capabilities: tuple[Capability, ...]
    aliases: tuple[Name, ...] = ()
    active_parameters: Count | None = None
    gated: bool = False
    template: str = ""
    system: str | None = None
    sampling: dict[SamplingField, float] = {}
    default_quant: str | None = None
    gguf: GgufSource | None = None
    mlx: Repo | None = None
    onnx: Repo | None = None
    package: PackageSource | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All specs, by id and by alias."""

    specs: tuple[ModelSpec, ...]
    names: Mapping[str, ModelSpec]

    @classmethod
    def load(cls, home: Path) -> Catalog:
        """Read the packaged file and `home/models.toml` over it, if there is one. Raises ConfigError."""
        specs = {spec.id: spec for spec in _read(packaged_file())}
        overlay = home / FILE
        if overlay.is_file():
            specs |= {spec.id: spec for spec in _read(overlay)}
        return cls(tuple(specs.values()), MappingProxyType(_names(specs.values(), overlay)))

    def get(self, name: str) -> ModelSpec | None:
        """The spec under an id or alias, in any case; None where there is none."""
        return self.names.get(name.lower())

    def nearest(self, name: str, others: Iterable[str] = ()) -> str | None:
        """The known name closest to a misspelt one, or None where nothing is close. `others` are candidates too."""
        candidates = {known.lower(): known for known in (*self.names, *others)}
        found = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.5)
        return candidates[found[0]] if found else None


def packaged_file() -> Path:
    """`models.toml` as installed, beside this module, or one level up in a checkout."""
    installed = Path(__file__).with_name(FILE)
    return installed if installed.is_file() else Path(__file__).parent.parent / FILE


def _read(path: Path) -> list[ModelSpec]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", "correct the line that it names") from error
    unknown = set(tables) - {"models"}
    if unknown or not isinstance(tables.get("models", []), list):
        key = min(unknown, default="models")
        raise ConfigError(f"{path.name}: key {key!r}: expected only [[models]] entries", "see the packaged models.toml")
    specs = [_spec(path, number, entry) for number, entry in enumerate(tables.get("models", []), start=1)]
    ids = [spec.id for spec in specs]
    for spec in specs:
        if ids.count(spec.id) > 1:
            raise ConfigError(f"{path.name}: id {spec.id!r} is given twice", "keep one of the entries")
    return specs


def _spec(path: Path, number: int, entry: Any) -> ModelSpec:
    label = f"{path.name}: model {number}"
    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
        label += f" ({entry['id'][:96]})"
    try:
        spec = msgspec.convert(entry, ModelSpec)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        key = f" key {where.rstrip('`')}:" if where else ""
        raise ConfigError(f"{label}:{key} {reason[:1].lower()}{reason[1:]}", "correct this entry") from error
    if spec.gguf is None and spec.package is None:
        raise ConfigError(f"{label}: expected a gguf or a package source", "add [models.gguf] with a repo")
    return spec


def _names(specs: Iterable[ModelSpec], path: Path) -> dict[str, ModelSpec]:
    names = {spec.id: spec for spec in specs}
    for spec in tuple(names.values()):
        for alias in spec.aliases:
            if names.setdefault(alias, spec) is not spec:
                raise ConfigError(
                    f"{path.name}: {spec.id}: alias {alias!r} already names {names[alias].id}", "choose another alias"
                )
    return names
