"""Brings a model from a hub into our store: choose the files, check the disk, download, verify, publish.

A catalogue id or `hf:owner/repo[:quant]` enters, the LocalModel leaves. Blocking: the daemon runs it in a thread.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import ModelFileError
from backends.gguf import read_header
from localai.catalog import ModelSpec
from localai.errors import BadRequest, DownloadFailed, ModelBroken, NotFound, OutOfResources, UnknownModel
from localai.gguf_names import GgufGroup, by_preference, groups, matching
from localai.library import Library
from localai.local_model import LocalModel
from localai.model_store import Manifest, StoredFile, disk_error, safe_name
from localai.transfer import Meter, PullProgress, Wanted, fetch, file_sha256

if TYPE_CHECKING:
    from localai.hub import Hub, RemoteFile, Repository

MARGIN_BYTES = 256 << 20

Report = Callable[[PullProgress], None]

_HF = re.compile(r"hf:(?P<repo>[^:/]+/[^:/]+)(?::(?P<quant>.+))?")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reference means: one model of one repository at one commit, and the files that it needs here."""

    id: str
    repo: Repository
    files: tuple[Wanted, ...]
    spec_id: str | None


class Puller:
    """Downloads into the home of `library`. `endpoint` and `token` default to huggingface_hub's environment.

    `retries` counts failed connections without a byte of progress, `pause_s` is the first wait between them, doubling.
    """

    def __init__(
        self,
        library: Library,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        margin_bytes: int = MARGIN_BYTES,
        retries: int = 5,
        pause_s: float = 0.5,
    ) -> None:
        self._library = library
        self._endpoint = endpoint
        self._token = token
        self._margin = margin_bytes
        self._retries = retries
        self._pause_s = pause_s

    def pull(self, ref: str, progress: Report | None = None, cancel: threading.Event | None = None) -> LocalModel:
        """Make `ref` a local model; what is there already is not fetched again, what was begun is resumed.

        Raises UnknownModel, NotFound, Unauthorized, BadRequest, Conflict (somebody pulls it now), OutOfResources,
        ModelBroken (the hub's file is no sound GGUF), DownloadFailed, and of these PullCancelled once `cancel` is set.
        """
        spec, repo, quant = self._reference(ref)
        present = self._present(ref, spec, quant)
        if present is not None:
            return present
        plan = self._plan(repo, spec, quant)
        with self._library.store.locked(plan.id):
            self._download(plan, Meter(plan.id, sum(file.bytes for file in plan.files), progress, cancel))
        return self._library.resolve(plan.id)

    def _reference(self, ref: str) -> tuple[ModelSpec | None, str, str]:
        """Split `ref` into the catalogue's spec, the repository ('' for none) and the quantisation ('' for any)."""
        match = _HF.fullmatch(ref)
        if match:
            return None, match["repo"], match["quant"] or ""
        if ref.lower().endswith(".gguf"):
            raise BadRequest(f"{ref!r} is a file", "`localai models import FILE` takes files", param="model")
        name, _, quant = ref.partition(":")
        spec = self._library.catalog.get(name)
        if spec is None:
            raise UnknownModel(ref, self._library.catalog.nearest(name))
        return spec, spec.gguf.repo if spec.gguf else "", quant

    def _present(self, ref: str, spec: ModelSpec | None, quant: str) -> LocalModel | None:
        """What needs no hub: a file in an installed package, or anything that is here when the hub is offline."""
        packaged = spec is not None and spec.package is not None and not quant
        if not packaged and not self._hub.offline:
            return None
        try:
            found = self._library.resolve(ref, files=False)
        except NotFound as error:
            if spec is not None and spec.gguf is None:
                raise
            if self._hub.offline:
                raise DownloadFailed(
                    f"{ref} is not here and the hub is not asked: HF_HUB_OFFLINE is set", "unset it to download"
                ) from error
            return None
        return found if self._hub.offline or found.origin == "starter" else None

    def _plan(self, repo_name: str, spec: ModelSpec | None, quant: str) -> Plan:
        repo = self._hub.repository(repo_name, spec.gguf.revision if spec and spec.gguf else "main")
        group = _choose(repo, spec, quant)
        label = group.quant or group.stem
        model_id = f"hf:{repo.id}:{label}"
        if spec is not None:
            model_id = spec.id if group.quant == spec.default_quant else f"{spec.id}:{label}"
        folder = self._library.store.folder(model_id)
        listed = {file.name: file for file in repo.files}
        files = tuple(
            _wanted(self._hub.described(repo, listed[name]), folder, _catalogued_digest(spec, name))
            for name in group.files
        )
        return Plan(model_id, repo, files, spec.id if spec else None)

    def _download(self, plan: Plan, meter: Meter) -> None:
        store = self._library.store
        folder = store.folder(plan.id)
        meter.show(plan.files[0].target.name, "checking")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            missing = [file for file in plan.files if not _kept(file, store.manifest(plan.id), meter)]
            self._check_space(folder, sum(file.bytes - file.arrived for file in missing))
        except OSError as error:
            raise disk_error(error, "free some space") from error
        for file in missing:
            fetch(self._hub, plan.repo, file, meter, retries=self._retries, pause_s=self._pause_s)
        for file in missing:
            _check_header(file)
        self._publish(plan, missing)
        meter.show(plan.files[-1].target.name, "done")

    def _publish(self, plan: Plan, fetched: Sequence[Wanted]) -> None:
        """Put the verified parts in place. Without a manifest in between: a crash leaves work to resume, not a mix."""
        store = self._library.store
        folder = store.folder(plan.id)
        manifest = Manifest(
            id=plan.id,
            origin="pulled",
            files=tuple(StoredFile(file.target.name, file.bytes, file.sha256) for file in plan.files),
            repo=plan.repo.id,
            revision=plan.repo.revision,
            spec_id=plan.spec_id,
        )
        try:
            if fetched:
                store.withdraw(plan.id)
            for file in fetched:
                file.part.replace(file.target)
            store.publish(manifest)
            current = {file.target.name for file in plan.files}
            for path in folder.iterdir():
                if path.suffix in (".part", ".gguf") and path.name not in current:
                    path.unlink()
        except OSError as error:
            raise disk_error(error, "the same command tries again") from error

    def _check_space(self, folder: Path, needed: int) -> None:
        free = shutil.disk_usage(folder).free
        if needed + self._margin > free:
            raise OutOfResources(
                f"the download needs {needed / 1e9:.2f} GB and {self._margin / 1e9:.2f} GB of margin, "
                f"the disk has {free / 1e9:.2f} GB free",
                "free some space, choose a smaller quantisation, or move LOCALAI_HOME",
            )

    @cached_property
    def _hub(self) -> Hub:
        from localai.hub import Hub

        return Hub(self._endpoint, self._token)


def _choose(repo: Repository, spec: ModelSpec | None, quant: str) -> GgufGroup:
    """The one model of the repository that is meant. Raises NotFound, BadRequest where several fit, DownloadFailed."""
    offered = groups(file.name for file in repo.files)
    if not offered:
        raise NotFound(f"{repo.id} has no GGUF files", "look for a repository whose name ends in -GGUF")
    fitting = matching(offered, quant) if quant else _defaults(offered, spec)
    if not fitting:
        labels = ", ".join(sorted({group.quant or group.stem for group in offered}))
        raise NotFound(f"{repo.id} has no {quant}", f"it has {labels}", param="model")
    if len(fitting) > 1:
        names = ", ".join(group.files[0] for group in fitting[:5])
        raise BadRequest(f"several files of {repo.id} fit: {names}", f"write hf:{repo.id}:FILE", param="model")
    if not fitting[0].complete:
        raise DownloadFailed(f"{repo.id} lacks parts of {fitting[0].stem}", "choose another quantisation")
    return fitting[0]


def _defaults(offered: Sequence[GgufGroup], spec: ModelSpec | None) -> list[GgufGroup]:
    """What to take when nothing was asked for: the catalogue's file, else its quantisation, else the preferred one."""
    if spec is not None and spec.gguf is not None and spec.default_quant is not None:
        known = spec.gguf.quants.get(spec.default_quant)
        fitting = (matching(offered, known.file) if known else []) or matching(offered, spec.default_quant)
        if fitting:
            return fitting
    best = by_preference(offered)[0]
    return [group for group in offered if group.quant == best.quant]


def _catalogued_digest(spec: ModelSpec | None, name: str) -> str | None:
    quants = spec.gguf.quants.values() if spec is not None and spec.gguf is not None else ()
    return next((quant.sha256 for quant in quants if quant.file == name), None)


def _wanted(remote: RemoteFile, folder: Path, catalogued: str | None) -> Wanted:
    if remote.bytes is None or remote.sha256 is None:
        raise DownloadFailed(f"the hub gives no size or SHA-256 for {remote.name}", "use a hub that keeps it as LFS")
    if catalogued is not None and catalogued != remote.sha256:
        raise DownloadFailed(
            f"the hub's {remote.name} is not the file that the catalogue describes",
            "update localai; until then name the repository itself as hf:owner/repo",
        )
    return Wanted(remote, folder / safe_name(remote.name), remote.bytes, remote.sha256)


def _kept(file: Wanted, manifest: Manifest | None, meter: Meter) -> bool:
    """Whether the file is in place already: as the manifest says, or, after a crash, as its bytes say."""
    name = file.target.name
    if not file.target.is_file() or file.target.stat().st_size != file.bytes:
        return False
    known = {stored.name: stored.sha256 for stored in manifest.files} if manifest else {}
    if known.get(name) == file.sha256:
        meter.add(file.bytes, name, "checking", fetched=False)
        return True
    if file_sha256(file.target, meter, name) == file.sha256:
        return True
    meter.add(-file.bytes, name, "checking", fetched=False)
    return False


def _check_header(file: Wanted) -> None:
    try:
        read_header(file.part)
    except ModelFileError as error:
        file.part.unlink()
        raise ModelBroken(
            f"{file.target.name} arrived as published, but is no sound GGUF ({error.message}); it was removed",
            "choose another file or repository",
            param="model",
        ) from error
