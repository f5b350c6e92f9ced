"""Makes a sibling of a model in another quantisation: a LocalModel and a type in, the new model in our store out.

llama.cpp works in a child process (`backends.quantize`); nothing becomes a model before it is whole and hashed.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.quantize import TYPES
from localai.device import free_bytes
from localai.errors import BadRequest, Conflict, EngineFailed, OutOfResources
from localai.gguf_names import quant_of
from localai.library import Library
from localai.local_model import LocalModel
from localai.model_store import Manifest, StoredFile, disk_error
from localai.transfer import BLOCK

_FLOAT = ("F32", "F16", "BF16")
_MARGIN = 64 * 2**20
"""Bytes that stay free on the disk."""

Report = Callable[[int, int], None]
"""Tensors done, and all."""


@dataclass(frozen=True, slots=True)
class Made:
    """The new model, and what a person should know about it."""

    model: LocalModel
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    bytes: int
    tensors: int
    fallbacks: dict[str, int]


def quantize(library: Library, name: str, kind: str, threads: int, report: Report) -> Made:
    """Write `name` as `kind` beside its other quantisations, with `threads`.

    Raises BadRequest (unknown type, or no GGUF model), Conflict (exists), OutOfResources, EngineFailed, and what
    `Library.resolve` raises; nothing is left then.
    """
    kind = kind.upper()
    if kind not in TYPES:
        raise BadRequest(f"no quantisation named {kind!r}", f"choose one of: {', '.join(TYPES)}", param="type")
    source = library.resolve(name)
    if source.format != "gguf" or source.base is not None:
        what = "an adapter" if source.base else "no GGUF model"
        raise BadRequest(f"{source.id} is {what}, and only GGUF models can be quantised", "name another", param="model")
    target_id = _sibling_id(source, kind)
    with library.store.locked(target_id):
        if library.store.manifest(target_id) is not None or _quant(source) == kind:
            raise Conflict(f"{target_id} exists", f"use it as it is, or `localai models rm {target_id}` first")
        planned = _child(source.path, None, kind, threads, report)
        _refuse_full_disk(library, planned.bytes)
        outcome = _write(library, source, target_id, kind, threads, report)
    return Made(library.resolve(target_id), tuple(_warnings(source, kind, outcome)))


def _write(library: Library, source: LocalModel, target_id: str, kind: str, threads: int, report: Report) -> _Outcome:
    folder = library.store.folder(target_id)
    target = folder / _file_name(source, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outcome = _child(source.path, target, kind, threads, report)
        stored = StoredFile(target.name, target.stat().st_size, _digest(target))
        spec = source.spec.id if source.spec else None
        manifest = Manifest(
            id=target_id, origin="imported", files=(stored,), repo=source.repo, spec_id=spec, made_from=source.id
        )
        library.store.publish(manifest)
    except OSError as error:
        raise disk_error(error, "free some space") from error
    finally:
        if library.store.manifest(target_id) is None:
            target.unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()
    return outcome


def _child(source: Path, target: Path | None, kind: str, threads: int, report: Report) -> _Outcome:
    """Run llama.cpp's quantiser; without `target` only what would come of it. Raises EngineFailed."""
    command = [sys.executable, "-P", "-m", "backends.quantize", str(source), str(target or ""), kind, str(threads)]
    said: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            for said in _messages(child.stdout):
                if "tensor" in said and target is not None:
                    report(said["tensor"], said["of"])
        except BaseException:
            child.kill()
            raise
        code = child.wait()
    if "done" not in said:
        why = said.get("failed") or f"its process ended with {code}"
        raise EngineFailed(f"llama.cpp cannot make {kind} of this model: {why}", "choose another type")
    return _Outcome(**said["done"])


def _messages(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


def _refuse_full_disk(library: Library, need: int) -> None:
    free = free_bytes(library.store.root)
    if need + _MARGIN > free:
        mib = 2**20
        raise OutOfResources(
            f"it takes {need / mib:.0f} MiB, and {free / mib:.0f} MiB are free",
            "free some space, or take a smaller type",
        )


def _warnings(source: LocalModel, kind: str, outcome: _Outcome) -> Iterator[str]:
    before = _quant(source)
    if before not in _FLOAT:
        yield (
            f"the weights were {before or 'quantised'} already: {kind} keeps what that lost and adds its own loss; "
            "where quality matters, start from F16 or BF16"
        )
    if outcome.fallbacks:
        kinds = ", ".join(f"{count} as {name}" for name, count in sorted(outcome.fallbacks.items()))
        yield (
            f"{sum(outcome.fallbacks.values())} of {outcome.tensors} tensors have rows that do not divide into the "
            f"256-value blocks that {kind} wants for them, and were written otherwise: {kinds}"
        )


def _quant(model: LocalModel) -> str:
    return quant_of(model.path.name) or (model.header.quant if model.header else "")


def _sibling_id(source: LocalModel, kind: str) -> str:
    name = source.spec.id if source.spec else source.id.removeprefix("file:")
    base, _, last = name.rpartition(":")
    return f"{base if base and last.upper() in TYPES else name}:{kind}"


def _file_name(source: LocalModel, kind: str) -> str:
    """The source's name with the new type in the place of the old one."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", source.path.stem)
    old = quant_of(source.path.name)
    stem = re.sub(rf"[-._]?{re.escape(old)}$", "", stem, flags=re.IGNORECASE) if old else stem
    return re.sub(r"[^\w.+-]", "-", f"{stem}.{kind}.gguf")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
