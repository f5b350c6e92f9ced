"""Reads the header of a GGUF file that is still on the hub, without fetching its weights.

A repository's file enters, a checked GgufHeader leaves; only a growing beginning of the file is asked for, and a header
that was read once is remembered by the file's digest. Blocking, and imports huggingface_hub only through its caller.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from backends.errors import ModelFileError
from backends.gguf import read_header
from backends.gguf_header import GgufHeader, TensorInfo, Value
from localai.atomic import replace_file
from localai.errors import DownloadFailed, ModelBroken, OutOfResources

if TYPE_CHECKING:
    from localai.hub import Hub, RemoteFile, Repository

_log = logging.getLogger(__name__)

FIRST = 512 * 2**10
"""Bytes of the first request; each further one doubles what is here, because vocabularies differ in size."""
LARGEST = 64 * 2**20
"""Bytes of a file that are fetched at most; the largest vocabularies take about 16 MB."""
_TRIES = 4
_KEPT = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int


class RemoteHeaders:
    """Headers of one hub's files, remembered in `folder`. `pause_s` is the first wait after a failed connection."""

    def __init__(self, hub: Hub, folder: Path, *, pause_s: float = 0.5) -> None:
        self._hub = hub
        self._folder = folder
        self._pause_s = pause_s

    def read(self, repo: Repository, files: Sequence[RemoteFile]) -> tuple[GgufHeader, ...]:
        """The headers of the parts of one model, in order.

        Raises as `Hub.repository`, DownloadFailed, and ModelBroken where a part is no sound GGUF.
        """
        return tuple(self._one(repo, file) for file in files)

    def _one(self, repo: Repository, file: RemoteFile) -> GgufHeader:
        if file.bytes is None or file.sha256 is None:
            file = self._hub.described(repo, file)
        kept = self._recall(file.sha256)
        if kept is not None:
            return kept
        stream = _Beginning(self._hub, repo, file, self._pause_s)
        try:
            header = read_header(cast(BinaryIO, stream))
        except ModelFileError as error:
            raise ModelBroken(
                f"{file.name} on the hub is no sound GGUF: {error.message}", "choose another file or repository"
            ) from error
        self._keep(file.sha256, header)
        return header

    def _recall(self, sha256: str | None) -> GgufHeader | None:
        if sha256 is None:
            return None
        try:
            kept = msgspec.json.decode(self._path(sha256).read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("a header is read from the hub again: %s", error)
            return None
        metadata: Mapping[str, Value] = MappingProxyType(kept.metadata)
        return GgufHeader(kept.version, metadata, kept.tensors, kept.data_offset, kept.file_size)

    def _keep(self, sha256: str | None, header: GgufHeader) -> None:
        """Write it down; where that fails, the next plan reads from the hub again."""
        if sha256 is None:
            return
        fields = (header.version, dict(header.metadata), header.tensors, header.data_offset, header.file_size)
        path = self._path(sha256)
        try:
            replace_file(path, msgspec.json.encode(_Kept(*fields)))
            known = sorted(self._folder.glob("*.json"), key=lambda each: each.stat().st_mtime)
            for old in known[:-_KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, OutOfResources) as error:
            _log.warning("a remote header is not remembered: %s", error)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.json"


class _Beginning(io.RawIOBase):
    """A remote file of which only a beginning is held; reading past it fetches more, up to LARGEST bytes in all."""

    def __init__(self, hub: Hub, repo: Repository, file: RemoteFile, pause_s: float) -> None:
        if file.bytes is None:
            raise DownloadFailed(f"the hub gives no size for {file.name}", "use a hub that keeps it as LFS")
        self._hub, self._repo, self._file = hub, repo, file
        self._size: int = file.bytes
        self._pause_s = pause_s
        self._held = bytearray()
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        # A reader's window may reach past the header: what is here already will often do.
        if self._at < len(self._held) < end:
            end = len(self._held)
        if end > len(self._held):
            self._fetch(end)
        data = bytes(self._held[self._at : end])
        self._at += len(data)
        return data

    def _fetch(self, end: int) -> None:
        if end > LARGEST:
            raise ModelBroken(
                f"the header of {self._file.name} is longer than {LARGEST >> 20} MiB", "choose another repository"
            )
        wanted = min(max(end, FIRST, 2 * len(self._held)), self._size, LARGEST)
        from localai.hub import TransferInterrupted

        for attempt in range(_TRIES):
            try:
                self._receive(wanted)
                if len(self._held) >= end:
                    return
                reason = "the answer ended early"
            except TransferInterrupted as error:
                reason = error.reason
            time.sleep(self._pause_s * 2**attempt)
        raise DownloadFailed(f"the header of {self._file.name} did not arrive: {reason}", "try again later")

    def _receive(self, wanted: int) -> None:
        """Take what the hub sends up to `wanted` bytes, then hang up: it may ignore ranges and send the whole file."""
        with self._hub.open(self._repo, self._file, len(self._held), wanted - len(self._held)) as body:
            if body.offset != len(self._held):
                self._held.clear()
            for chunk in body.chunks:
                self._held += chunk[: wanted - len(self._held)]
                if len(self._held) >= wanted:
                    return
