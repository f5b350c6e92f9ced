"""Takes files into our store, and removes models from it; what belongs to other programs is never touched.

A path enters, the LocalModel leaves. The header is read before a byte is copied.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import msgspec

from backends.contract import Adapter
from backends.errors import BackendError, ModelFileError
from backends.gguf import read_shards, shards
from backends.lora import read_fitting, refuse_bad_choice
from localai.errors import BadRequest, Conflict, ModelBroken, from_backend
from localai.header_cache import ADAPTER
from localai.library import Library
from localai.local_model import LocalModel
from localai.model_store import Manifest, StoredFile, disk_error
from localai.presets import Preset
from localai.pull import Report
from localai.transfer import BLOCK, Meter


def import_file(
    library: Library,
    path: Path,
    name: str,
    *,
    base: str | None = None,
    scale: float = 1.0,
    link: bool = False,
    progress: Report | None = None,
    cancel: threading.Event | None = None,
) -> LocalModel:
    """Copy or hard-link the model at `path`, all parts of a split one, into the home as `name`.

    With `base`, the file is an adapter to be served over that model with the strength `scale`. Raises ModelBroken,
    BadRequest, Conflict (the name is taken), OutOfResources, PullCancelled; nothing is left then.
    """
    if library.catalog.get(name) is not None:
        raise Conflict(f"{name} is a model of the catalogue", "choose another name", param="model")
    described = library.file(path)
    over = _fitting_base(library, path, base, scale) if base is not None else None
    if over is None and described.problem is not None:
        adapter = described.problem == ADAPTER
        hint = "name the model that it was made for: --base MODEL" if adapter else "give a complete .gguf file"
        raise ModelBroken(f"{path.name}: {described.problem}", hint, param="model")
    try:
        parts = (path,) if over else shards(path)
    except ModelFileError as error:
        raise from_backend(error) from error
    with library.store.locked(name):
        if library.store.manifest(name) is not None:
            raise Conflict(f"a model named {name} exists", f"`localai models rm {name}`, or choose another name")
        meter = Meter(name, described.size_bytes, progress, cancel)
        manifest = Manifest(id=name, origin="imported", files=(), base=over, scale=scale)
        _take(library, parts, manifest, meter, link=link)
    meter.show(parts[-1].name, "done")
    return library.resolve(name)


def create_preset(library: Library, name: str, base: str, preset: Preset) -> LocalModel:
    """Publish `name` over `base`; what it leaves open is taken from a preset that it builds on. Replaces an older one.

    Raises UnknownModel or NotFound for the base, Conflict where the name is a model's with weights, BadRequest.
    """
    model = library.resolve(base, files=False)
    if model.adapters:
        raise BadRequest(f"{model.id} is an adapter over another model", "build on that model", param="from")
    if model.preset is not None and model.base is not None:
        preset, model = preset.over(model.preset), model.base
    taken = next((other for other in library.list() if other.id.lower() == name.lower()), None)
    if library.catalog.get(name) is not None or (taken is not None and taken.preset is None):
        raise Conflict(f"{name} is the name of a model already", "choose another name", param="model")
    folder = library.store.folder(name)
    with library.store.locked(name):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Made anew, so that whoever remembers the folder's state sees the change.
            library.store.withdraw(name)
            library.store.publish(Manifest(id=name, origin="imported", files=(), base=model.id, preset=preset))
            library.store.root.touch()
        except OSError as error:
            raise disk_error(error, "free some space") from error
    return library.resolve(name, files=False)


def remove(library: Library, name: str) -> int:
    """Delete a model of ours; return the bytes freed. Raises Conflict for a model that another program keeps."""
    model = library.known(name)
    if model.origin not in ("pulled", "imported"):
        owner = {"starter": "pip", "ollama": "Ollama", "lmstudio": "LM Studio", "hub": "the hub's cache"}
        where = owner.get(model.origin, "another folder")
        raise Conflict(f"{model.id} belongs to {where} and is only used from there", f"remove it with {where}")
    siblings = [other.id for other in library.list() if other.base is not None and other.base.id == model.id]
    if siblings:
        raise Conflict(f"{model.id} is the base of {', '.join(siblings)}", f"`localai models rm {siblings[0]}` first")
    with library.store.locked(model.id):
        return library.store.remove(model.id)


def _fitting_base(library: Library, path: Path, base: str, scale: float) -> str:
    """The id of the model that the adapter at `path` goes with. Raises ModelBroken where it does not fit."""
    model = library.resolve(base, files=False)
    if model.base is not None:
        raise BadRequest(f"{model.id} is an adapter over {model.base.id}", f"--base {model.base.id}", param="base")
    try:
        refuse_bad_choice((Adapter(str(path), scale),))
        read_fitting(path, read_shards(model.path), model.id)
    except BackendError as error:
        raise from_backend(error) from error
    return model.id


def _take(library: Library, parts: tuple[Path, ...], manifest: Manifest, meter: Meter, *, link: bool) -> None:
    folder = library.store.folder(manifest.id)
    targets = [folder / part.name for part in parts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for source, target in zip(parts, targets, strict=True):
            digest = None
            if link:
                _link(source, target)
            else:
                digest = _copy(source, target, meter)
            files.append(StoredFile(target.name, target.stat().st_size, digest))
        library.store.publish(msgspec.structs.replace(manifest, files=tuple(files)))
    except OSError as error:
        raise disk_error(error, "free some space, or link instead of copying") from error
    finally:
        if library.store.manifest(manifest.id) is None:
            for target in targets:
                target.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        raise BadRequest(f"{source.name} cannot be linked from where it is", "import it without linking") from error


def _copy(source: Path, target: Path, meter: Meter) -> str:
    """Copy with progress; return the SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as reader, target.open("wb") as writer:
        while block := reader.read(BLOCK):
            writer.write(block)
            digest.update(block)
            meter.add(len(block), source.name, "copying")
    return digest.hexdigest()
