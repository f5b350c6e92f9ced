"""What is on this machine: the starter, our own models, and those of Ollama, LM Studio and the hub's cache, in place.

A model is a GGUF file (split ones too), or a folder in MLX's or ONNX's layout.

Names enter, `LocalModel` leaves; UnknownModel, NotFound or ModelBroken where a name leads nowhere. Never downloads.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from backends.contract import Adapter
from backends.errors import ModelFileError
from backends.gguf import shards
from localai.catalog import Catalog, ModelSpec, PackageSource
from localai.errors import ModelBroken, NotFound, UnknownModel
from localai.foreign_stores import Found, Stores, found_folder
from localai.gguf_names import PREFERENCE, quant_of
from localai.header_cache import ADAPTER, HeaderCache, HeaderSummary, Outcome, stamp
from localai.local_model import LocalModel
from localai.model_folders import summary_of
from localai.model_store import ModelStore
from localai.siblings import combined

_KEPT_NAMES = 256
_OURS = ("starter", "pulled", "imported")


class Library:
    """Safe to use from several threads; `use` takes a newer catalogue, for instance from a CatalogWatcher."""

    def __init__(self, home: Path, catalog: Catalog, stores: Stores | None = None) -> None:
        self.home = home
        self.catalog = catalog
        self.store = ModelStore(home)
        self._stores = Stores.from_environment() if stores is None else stores
        self._headers = HeaderCache(home / "cache" / "headers.json")
        self._resolved: dict[tuple[str, bool], tuple[LocalModel, tuple[int, str, int]]] = {}

    def use(self, catalog: Catalog) -> None:
        """Look names up in this catalogue from now on."""
        self.catalog = catalog
        self._resolved.clear()

    def list(self) -> list[LocalModel]:
        """All models, ours first; broken ones carry their `problem`."""
        catalog = self.catalog
        seen: dict[str, LocalModel] = {}
        everything = [*self._find(catalog)]
        for found in everything:
            if found.id not in seen and found.base is None:
                seen[found.id] = self._describe(found, catalog)
        plain = tuple(seen.values())
        for found in everything:
            if found.id not in seen and found.base is not None:
                seen[found.id] = self._sibling(found, found.base, self._chosen(found.base, plain))
        self._headers.save()
        return list(seen.values())

    def resolve(self, name: str, *, files: bool = True) -> LocalModel:
        """The model that `name` means, fit for use. Raises as `known`, and ModelBroken.

        Asked for with every request, so an answer is kept while its files, our models and the catalogue stay the same.
        """
        kept = self._resolved.get((name, files))
        if kept is not None and kept[1] == self._state(kept[0]):
            return kept[0]
        model = self.known(name, files=files)
        if model.problem is not None:
            broken = f"{model.id} cannot be used: {model.problem}"
            raise ModelBroken(broken, "remove it and get it again", param="model")
        if len(self._resolved) >= _KEPT_NAMES:
            self._resolved.clear()
        self._resolved[name, files] = (model, self._state(model))
        return model

    def remembers(self, name: str, *, files: bool = True) -> bool:
        """Whether `resolve` would only see whether the files are still what they were."""
        return (name, files) in self._resolved

    def known(self, name: str, *, files: bool = True) -> LocalModel:
        """The model that `name` means: an id, an alias, `hf:owner/repo[:quant]`, or a path where `files` allows it.

        `BASE+ADAPTER[@SCALE]`, with one adapter or more, is a sibling made up on the spot; see `siblings`.
        Raises UnknownModel (with the nearest name) and NotFound (known, but not here; the hint pulls it).
        """
        if files and name.lower().endswith(".gguf") and not name.startswith("hf:"):
            path = os.path.expanduser(name)
            if os.path.isfile(path):
                return self.file(Path(path))
            if "+" not in name:
                raise NotFound(f"there is no file {name!r}", "check the path; `localai models list` shows what is here")
        if files and _names_folder(name):
            return self._folder(Path(os.path.expanduser(name)))
        models = self.list()
        chosen = self._chosen(name, models)
        if chosen is not None:
            return chosen
        if "+" in name:
            return combined(name, lambda part: self.known(part, files=files), files=files)
        spec, _ = self._catalogued(name)
        if spec is not None:
            raise NotFound(f"{spec.name} is known, but not on this machine", _how_to_get(name, spec), param="model")
        if name.startswith("hf:"):
            raise NotFound(f"{name} is not on this machine", f"`localai models pull {name}`", param="model")
        raise UnknownModel(name, self.catalog.nearest(name, [model.id for model in models]))

    def file(self, path: Path) -> LocalModel:
        """Describe a file outside all stores; the other parts of a split model are found beside it."""
        try:
            parts = shards(path)
        except (ModelFileError, OSError, ValueError):
            parts = (path,)
        return self._describe(Found(f"file:{path.stem}", parts, "file"), self.catalog)

    def _folder(self, path: Path) -> LocalModel:
        found = next(found_folder(f"file:{path.name}", path, "file"), None)
        if found is None:
            raise ModelBroken(
                f"the folder {path.name!r} holds no model",
                "give one with config.json and .safetensors files (MLX), or with an .onnx graph and its config",
                param="model",
            )
        return self._describe(found, self.catalog)

    def _state(self, model: LocalModel) -> tuple[int, str, int]:
        """What the answer `model` rests on; a model whose files are gone never equals an earlier state."""
        try:
            files = stamp((*model.files, *(model.base.files if model.base else ())))
        except OSError:
            return id(self.catalog), "gone", time.monotonic_ns()
        return id(self.catalog), files, self.store.changed_ns()

    def _find(self, catalog: Catalog) -> Iterator[Found]:
        for spec in catalog.specs:
            if spec.package is not None:
                yield from _packaged(spec, spec.package)
        for adapter in catalog.adapters:
            path = self.home / os.path.expanduser(adapter.file)
            yield Found(adapter.id, (path,), "file", base=adapter.base, scale=adapter.scale)
        yield from self.store.find()
        yield from self._stores.find()

    def _describe(self, found: Found, catalog: Catalog) -> LocalModel:
        outcome = found.problem or (self._headers.describe(found.files) if found.folder is None else _read(found))
        return LocalModel(
            id=found.id,
            path=found.folder or found.files[0],
            files=found.files,
            origin=found.origin,
            size_bytes=_size(found.files),
            digest=found.digest,
            spec=_spec_of(found, catalog),
            repo=found.repo,
            header=outcome if isinstance(outcome, HeaderSummary) else None,
            problem=outcome if isinstance(outcome, str) else None,
            format=found.format,
        )

    def _sibling(self, found: Found, base_name: str, base: LocalModel | None) -> LocalModel:
        outcome = found.problem or (ADAPTER if found.preset else self._headers.describe(found.files))
        problem = None
        if outcome != ADAPTER:
            problem = outcome if isinstance(outcome, str) else "a model, not an adapter"
        elif base is None or base.problem is not None:
            problem = f"its base {base_name} is {'not here' if base is None else 'broken'}"
        return LocalModel(
            id=found.id,
            path=found.files[0] if found.files else base.path if base else self.store.folder(found.id),
            files=found.files,
            origin=found.origin,
            size_bytes=_size(found.files),
            digest=found.digest,
            spec=base.spec if base and found.preset else None,
            repo=found.repo,
            header=base.header if base and problem is None else None,
            problem=problem,
            base=base,
            adapters=()
            if problem or found.preset
            else (Adapter(str(found.files[0]), found.scale, stamp(found.files)),),
            preset=found.preset,
        )

    def _chosen(self, name: str, models: Iterable[LocalModel]) -> LocalModel | None:
        by_id = {model.id.lower(): model for model in models}
        lowered = name.lower()
        for exact in (lowered, f"{lowered}:latest"):
            if exact in by_id:
                return by_id[exact]
        spec, quant = self._catalogued(name)
        if spec is not None:
            candidates = [model for model in by_id.values() if model.spec is not None and model.spec.id == spec.id]
            return _best(candidates, quant, spec.default_quant)
        if lowered.startswith("hf:"):
            repo, _, wanted = lowered.removeprefix("hf:").partition(":")
            return _best([model for model in by_id.values() if (model.repo or "").lower() == repo], wanted, None)
        return None

    def _catalogued(self, name: str) -> tuple[ModelSpec | None, str]:
        """The spec of `id` or `id:QUANT`, and the quantisation asked for ('' for any)."""
        base, _, quant = name.partition(":")
        return self.catalog.get(base), quant


def _read(found: Found) -> Outcome:
    assert found.folder is not None
    try:
        return summary_of(found.folder, found.format)
    except ModelFileError as error:
        return error.message


def _names_folder(name: str) -> bool:
    """A path, where a model's name cannot be meant."""
    return name.startswith(("/", "./", "../", "~")) and os.path.isdir(os.path.expanduser(name))


def _packaged(spec: ModelSpec, package: PackageSource) -> Iterator[Found]:
    module = importlib.util.find_spec(package.module)
    if module is None or module.origin is None:
        return
    path = Path(module.origin).with_name(package.file)
    if path.is_file():
        digest = package.sha256 if path.stat().st_size == package.bytes else None
        yield Found(spec.id, (path,), "starter", digest=digest, spec_id=spec.id)


def _spec_of(found: Found, catalog: Catalog) -> ModelSpec | None:
    if found.spec_id is not None:
        return catalog.get(found.spec_id)
    if found.repo is None:
        return None
    repo = found.repo.lower()
    return next((spec for spec in catalog.specs if spec.gguf is not None and spec.gguf.repo.lower() == repo), None)


def _best(candidates: Iterable[LocalModel], wanted: str, default: str | None) -> LocalModel | None:
    """The quantisation asked for; without one, sound before broken, ours before others', then the usual preference."""
    # The default is in the list too, where it must not lose its place.
    rank = {quant: place for place, quant in reversed(list(enumerate((default or "", *PREFERENCE))))}
    fitting = [model for model in candidates if not wanted or wanted.lower() in _labels(model)]
    return min(
        fitting,
        key=lambda model: (model.problem is not None, model.origin not in _OURS, rank.get(_quant(model), len(rank))),
        default=None,
    )


def _quant(model: LocalModel) -> str:
    return quant_of(model.path.name) or (model.header.quant if model.header else "")


def _labels(model: LocalModel) -> tuple[str, ...]:
    return _quant(model).lower(), model.path.name.lower(), model.path.stem.lower()


def _how_to_get(name: str, spec: ModelSpec) -> str:
    pull = f"`localai models pull {name}`"
    if spec.package is None or spec.package.extra is None:
        return pull
    install = f'`pip install "localai-daemon[{spec.package.extra}]"`'
    return f"{install}, or {pull}" if spec.gguf else install


def _size(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except (OSError, ValueError):
            continue
    return total
