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
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from localai.errors import ConfigError
from localai.upstreams.spec import UpstreamSpec, read_upstreams

Capability = Literal["chat", "tools", "reasoning", "fim", "embedding", "rerank"]
SamplingField = Literal["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Repo = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!.*\.\.)[^\\\0]+\.gguf$")]
Endpoint = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$")]
Count = Annotated[int, msgspec.Meta(gt=0)]

FILE = "models.toml"

S = TypeVar("S", bound=msgspec.Struct)


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
    draft: str = ""
    gguf: GgufSource | None = None
    mlx: Repo | None = None
    onnx: Repo | None = None
    package: PackageSource | None = None
    rpc: tuple[Endpoint, ...] = ()


class AdapterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter in GGUF, to be served as a model of its own over `base`; `file` is absolute, or in the home."""

    id: Name
    base: str
    file: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Catalog:
    """All specs, by id and by alias; the adapters and upstreams of the home's own file."""

    specs: tuple[ModelSpec, ...]
    names: Mapping[str, ModelSpec]
    adapters: tuple[AdapterSpec, ...] = ()
    upstreams: tuple[UpstreamSpec, ...] = ()

    @classmethod
    def load(cls, home: Path) -> Catalog:
        """Read the packaged file and `home/models.toml` over it, if there is one. Raises ConfigError."""
        specs = {spec.id: spec for spec in _read(packaged_file())[0]}
        overlay = home / FILE
        adapters: list[AdapterSpec] = []
        upstreams: list[UpstreamSpec] = []
        if overlay.is_file():
            own, adapters, upstreams = _read(overlay)
            specs |= {spec.id: spec for spec in own}
        names = _names(specs.values(), overlay)
        taken = next((adapter.id for adapter in adapters if adapter.id in names), None)
        if taken is not None:
            raise ConfigError(f"{FILE}: adapter {taken!r} has the name of a model", "choose another id")
        return cls(tuple(specs.values()), MappingProxyType(names), tuple(adapters), tuple(upstreams))

    def get(self, name: str) -> ModelSpec | None:
        """The spec under an id or alias, in any case; None where there is none."""
        return self.names.get(name.lower())

    def upstream_of(self, name: str) -> UpstreamSpec | None:
        """The upstream whose model `NAME/MODEL` means; None for a name of this machine."""
        upstream, slash, model = name.partition("/")
        return next((spec for spec in self.upstreams if spec.name == upstream and slash and model), None)

    def nearest(self, name: str, others: Iterable[str] = ()) -> str | None:
        """The known name closest to a misspelt one, or None where nothing is close. `others` are candidates too."""
        candidates = {known.lower(): known for known in (*self.names, *others)}
        found = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.5)
        return candidates[found[0]] if found else None


def packaged_file() -> Path:
    """`models.toml` as installed, beside this module, or one level up in a checkout."""
    installed = Path(__file__).with_name(FILE)
    return installed if installed.is_file() else Path(__file__).parent.parent / FILE


def _read(path: Path) -> tuple[list[ModelSpec], list[AdapterSpec], list[UpstreamSpec]]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", "correct the line that it names") from error
    upstreams = read_upstreams(path.name, tables.pop("upstreams", {}))
    unknown = sorted(set(tables) - {"models", "adapters"})
    wrong = unknown or [key for key, value in tables.items() if not isinstance(value, list)]
    if wrong:
        expected = "expected only [[models]], [[adapters]] and [upstreams.NAME] entries"
        raise ConfigError(f"{path.name}: key {wrong[0]!r}: {expected}", "see the packaged models.toml")
    specs = [_converted(path, "model", n, e, ModelSpec) for n, e in enumerate(tables.get("models", []), start=1)]
    own = tables.get("adapters", [])
    adapters = [_converted(path, "adapter", n, e, AdapterSpec) for n, e in enumerate(own, start=1)]
    ids = [spec.id for spec in specs] + [adapter.id for adapter in adapters]
    for name in ids:
        if ids.count(name) > 1:
            raise ConfigError(f"{path.name}: id {name!r} is given twice", "keep one of the entries")
    for number, spec in enumerate(specs, start=1):
        if spec.gguf is None and spec.package is None:
            label = f"{path.name}: model {number} ({spec.id})"
            raise ConfigError(f"{label}: expected a gguf or a package source", "add [models.gguf] with a repo")
    return specs, adapters, upstreams


def _converted(path: Path, what: str, number: int, entry: Any, kind: type[S]) -> S:
    label = f"{path.name}: {what} {number}"
    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
        label += f" ({entry['id'][:96]})"
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        key = f" key {where.rstrip('`')}:" if where else ""
        raise ConfigError(f"{label}:{key} {reason[:1].lower()}{reason[1:]}", "correct this entry") from error


def _names(specs: Iterable[ModelSpec], path: Path) -> dict[str, ModelSpec]:
    names = {spec.id: spec for spec in specs}
    for spec in tuple(names.values()):
        for alias in spec.aliases:
            if names.setdefault(alias, spec) is not spec:
                raise ConfigError(
                    f"{path.name}: {spec.id}: alias {alias!r} already names {names[alias].id}", "choose another alias"
                )
    return names
