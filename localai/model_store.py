"""The models that are ours: one folder per model under `home/models`, with a manifest that is written last.

A folder without a manifest is work in progress and no model. Knows the layout, not where the bytes came from.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from filelock import FileLock, Timeout

from localai.atomic import replace_file
from localai.errors import BadRequest, Conflict, LocalaiError, NotFound, OutOfResources
from localai.foreign_stores import Found
from localai.presets import Preset

MANIFEST = "manifest.json"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:[:/][A-Za-z0-9][A-Za-z0-9._-]*)*")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}\.gguf", re.IGNORECASE)


class StoredFile(msgspec.Struct, frozen=True):
    """One file beside the manifest; `sha256` is None where an import was not hashed."""

    name: str
    bytes: int
    sha256: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds and where it came from; with `base`, that model's adapter or preset.

    `made_from` is the model that was quantised into this one.
    """

    id: str
    origin: Literal["pulled", "imported"]
    files: tuple[StoredFile, ...]
    repo: str | None = None
    revision: str | None = None
    spec_id: str | None = None
    base: str | None = None
    scale: float = 1.0
    preset: Preset | None = None
    made_from: str | None = None


class ModelStore:
    """Reads, publishes and removes model folders below `home/models`."""

    def __init__(self, home: Path) -> None:
        self.root = home / "models"

    def changed_ns(self) -> int:
        """When a model folder was last added or removed, 0 for never; nanoseconds since the epoch."""
        return self.root.stat().st_mtime_ns if self.root.is_dir() else 0

    def folder(self, model_id: str) -> Path:
        """Where `model_id` lives, whether it exists or not. Raises BadRequest for an id that is no safe name."""
        if len(model_id) > 200 or not _ID.fullmatch(model_id) or "--" in model_id:
            raise BadRequest(f"{model_id!r} is no model id", "use letters, digits, '.', '_' and '-'", param="model")
        return self.root / model_id.replace("/", "--").replace(":", "--")

    def manifest(self, model_id: str) -> Manifest | None:
        """What is stored under `model_id`, or None. Raises BadRequest, and NotFound for a manifest that is broken."""
        path = self.folder(model_id) / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise NotFound(
                f"the manifest of {model_id} cannot be read: {error}",
                f"`localai models rm {model_id}`, then pull it again",
            ) from error

    def publish(self, manifest: Manifest) -> None:
        """Make the folder a model, in one rename. The files are in place already."""
        replace_file(self.folder(manifest.id) / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))

    def withdraw(self, model_id: str) -> None:
        """Make the folder no model for now; its files stay."""
        (self.folder(model_id) / MANIFEST).unlink(missing_ok=True)

    @contextmanager
    def locked(self, model_id: str) -> Iterator[None]:
        """Hold the folder against other threads and processes. Raises Conflict at once where it is held."""
        lock = FileLock(self.root / ".locks" / f"{self.folder(model_id).name}.lock")
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise Conflict(f"{model_id} is being changed right now", "wait until that is done") from error
        except OSError as error:
            raise disk_error(error, "free some space") from error
        try:
            yield
        finally:
            lock.release()

    def remove(self, model_id: str) -> int:
        """Delete the folder of `model_id`, manifest first; return the bytes freed. Raises NotFound."""
        folder = self.folder(model_id)
        if not folder.is_dir() or folder.is_symlink():
            raise NotFound(f"no model named {model_id!r} is stored here", "`localai models list` shows all")
        freed = sum(file.lstat().st_size for file in folder.iterdir() if file.is_file())
        self.withdraw(model_id)
        shutil.rmtree(folder)
        return freed

    def find(self) -> Iterator[Found]:
        """Every published model, broken manifests included."""
        for path in sorted(self.root.glob(f"*/{MANIFEST}")):
            try:
                manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
                names = [safe_name(file.name) for file in manifest.files]
            except (OSError, msgspec.DecodeError, BadRequest):
                yield Found(path.parent.name, (path,), "pulled", problem="its manifest cannot be read")
                continue
            files = tuple(path.with_name(name) for name in names)
            digest = manifest.files[0].sha256 if len(files) == 1 else None
            yield Found(
                manifest.id,
                files,
                manifest.origin,
                digest,
                manifest.repo,
                manifest.spec_id,
                base=manifest.base,
                scale=manifest.scale,
                preset=manifest.preset,
            )


def safe_name(name: str) -> str:
    """The last part of a repository's file name. Raises BadRequest for one that is no plain .gguf name."""
    last = name.rsplit("/", 1)[-1]
    if not _NAME.fullmatch(last):
        raise BadRequest(f"{last[:80]!r} is no file name for a model", "choose another file of the repository")
    return last


def disk_error(error: OSError, hint: str) -> LocalaiError:
    """What a failed write means to the person who asked for it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfResources("the disk is full", hint)
    return OutOfResources(f"the models folder cannot be written: {error.strerror}", "check its permissions and mount")
