"""Brings one file from the hub to the disk: resumed where it stopped, and hashed on the way.

It grows beside its target as `NAME.DIGEST.part`, so that a changed file is never glued to an old half; the caller
renames it. Knows nothing of catalogues and manifests.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from localai.errors import DownloadFailed
from localai.model_store import disk_error

if TYPE_CHECKING:
    from localai.hub import Hub, RemoteFile, Repository

BLOCK = 1 << 20
REPORT_S = 0.1
RATE_WINDOW_S = 5.0

Stage = Literal["checking", "downloading", "verifying", "copying", "done"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a model is. Bytes count all of its files; `rate` is bytes per second, `eta_s` None while unknown."""

    model: str
    file: str
    stage: Stage
    done: int
    total: int
    rate: float
    eta_s: float | None


class PullCancelled(DownloadFailed):
    """The person stopped it; what has arrived is kept for the next time."""

    def __init__(self) -> None:
        super().__init__("the download was stopped", "the same command resumes it")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to bring: where it goes, and the size and digest that it must have."""

    remote: RemoteFile
    target: Path
    bytes: int
    sha256: str

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.{self.sha256[:16]}.part")

    @property
    def arrived(self) -> int:
        return min(self.part.stat().st_size, self.bytes) if self.part.exists() else 0


class Meter:
    """Counts bytes, and reports at most ten times a second. `check` ends the work when it was cancelled."""

    def __init__(
        self, model: str, total: int, report: Callable[[PullProgress], None] | None, cancel: threading.Event | None
    ) -> None:
        self._model, self._total, self._report = model, total, report
        self._cancel = cancel or threading.Event()
        self._done = 0
        self._fetched = 0
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._last = 0.0

    def check(self) -> None:
        if self._cancel.is_set():
            raise PullCancelled()

    def pause(self, seconds: float) -> None:
        """Wait, unless cancelled meanwhile."""
        self._cancel.wait(seconds)
        self.check()

    def add(self, count: int, file: str, stage: Stage, *, fetched: bool = True) -> None:
        """Count bytes; those that were on the disk already (`fetched` False) say nothing about the rate."""
        self.check()
        self._done += count
        self._fetched += max(count, 0) if fetched else 0
        now = time.monotonic()
        if now - self._last >= REPORT_S:
            self._last = now
            self._seen.append((now, self._fetched))
            while now - self._seen[0][0] > RATE_WINDOW_S and len(self._seen) > 2:
                self._seen.popleft()
            self.show(file, stage)

    def show(self, file: str, stage: Stage) -> None:
        if self._report is None:
            return
        (t0, b0), now = self._seen[0], time.monotonic()
        rate = (self._fetched - b0) / (now - t0) if now > t0 else 0.0
        eta = (self._total - self._done) / rate if rate > 0 else None
        self._report(PullProgress(self._model, file, stage, self._done, self._total, rate, eta))


def fetch(hub: Hub, repo: Repository, wanted: Wanted, meter: Meter, *, retries: int, pause_s: float) -> None:
    """Bring `wanted.part` to its full, verified length.

    After a failed connection it goes on from where it was, `retries` times without a byte of progress between.
    Raises PullCancelled, DownloadFailed, OutOfResources, and the errors of `Hub.open`.
    """
    from localai.hub import TransferInterrupted

    try:
        with wanted.part.open("ab+", buffering=0) as file:
            part = _Part(file, wanted, meter)
            failures = 0
            while (before := part.size) < wanted.bytes:
                try:
                    part.receive(hub, repo)
                    if part.size < wanted.bytes:
                        raise TransferInterrupted("the answer ended early")
                except TransferInterrupted as error:
                    failures = failures + 1 if part.size <= before else 1
                    if failures > retries:
                        raise DownloadFailed(
                            f"{wanted.target.name} stopped at {part.size} of {wanted.bytes} bytes: {error.reason}",
                            "the same command resumes it",
                        ) from error
                    meter.pause(min(pause_s * 2 ** (failures - 1), 10.0))
        _verify(wanted, part.sha.hexdigest())
    except OSError as error:
        raise disk_error(error, "what has arrived is kept; free some space and run the same command") from error


def file_sha256(path: Path, meter: Meter, file: str) -> str:
    """Hash a file that is on the disk, with progress."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as source:
        while block := source.read(BLOCK):
            digest.update(block)
            meter.add(len(block), file, "verifying", fetched=False)
    return digest.hexdigest()


class _Part:
    """An open part and the SHA-256 of what it holds, kept together through resumes and restarts."""

    def __init__(self, file: FileIO, wanted: Wanted, meter: Meter) -> None:
        """Read what an earlier run left; one that is too long to be a beginning is thrown away."""
        self._file, self._wanted, self._meter = file, wanted, meter
        self._name = wanted.target.name
        self.sha = hashlib.sha256()
        if file.seek(0, os.SEEK_END) > wanted.bytes:
            file.truncate(0)
        file.seek(0)
        while block := file.read(BLOCK):
            self.sha.update(block)
            meter.add(len(block), self._name, "verifying", fetched=False)

    @property
    def size(self) -> int:
        return self._file.tell()

    def receive(self, hub: Hub, repo: Repository) -> None:
        """Append one answer of the hub."""
        with hub.open(repo, self._wanted.remote, self.size) as body:
            if body.offset != self.size:
                self._restart()
            for chunk in body.chunks:
                if self.size + len(chunk) > self._wanted.bytes:
                    self._restart()
                    raise DownloadFailed(
                        f"the hub sends more than the {self._wanted.bytes} bytes of {self._name}", "try later"
                    )
                view = memoryview(chunk)
                while view:
                    view = view[self._file.write(view) :]
                self.sha.update(chunk)
                self._meter.add(len(chunk), self._name, "downloading")

    def _restart(self) -> None:
        self._meter.add(-self.size, self._name, "downloading", fetched=False)
        self._file.truncate(0)
        self._file.seek(0)
        self.sha = hashlib.sha256()


def _verify(wanted: Wanted, found: str) -> None:
    if found != wanted.sha256:
        wanted.part.unlink()
        raise DownloadFailed(
            f"{wanted.target.name} has SHA-256 {found[:12]}…, not {wanted.sha256[:12]}…; it was removed",
            "try again; if it happens again, do not trust this source",
        )
