"""What was measured of each backend with each model on this device: records enter, and are found again.

One small JSON file beside the self-tests' (`state_file`). A record holds for one build of one library, so that a new
one is measured anew. Measures nothing itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from localai.header_cache import stamp
from localai.local_model import LocalModel
from localai.readings import Reading
from localai.state_file import StateFile

FILE = "calibration.json"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What a record is of. `device` is a fingerprint, `model` as `identity` gives it, `build` the library's label."""

    device: str
    model: str
    backend: str
    build: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """How an engine read a text: its token ids, the sum of -ln p over all but the first, the likeliest id at each."""

    ids: tuple[int, ...]
    surprise: float
    likeliest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """`perplexity` of a text; against the reference its ratio, and the share of tokens with the same likeliest id."""

    perplexity: float
    ratio: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is known of one subject. `name` is the model's id when it was measured.

    `passes` of the measuring program were done, in `spent_s` seconds; each added its readings. `rss` is the largest
    resident size seen, in bytes. `verdict` says why the backend is not to be used, '' where nothing speaks against it.
    `foreign` is how many cores other programs took meanwhile, as a mean. `at` is Unix seconds.
    """

    subject: Subject
    name: str
    passes: int = 0
    readings: tuple[Reading, ...] = ()
    spent_s: float = 0.0
    rss: int = 0
    scores: Scores | None = None
    fidelity: Fidelity | None = None
    verdict: str = ""
    foreign: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvReading:
    """How `subject` read a text with its KV cache in `kv_type`, a token per step, as it decodes.

    `surprises` are -ln p of all tokens `ids` but the first, `likeliest` the likeliest id at each. A step took `step_s`
    seconds, as a median over depths about `depth`. `problem` says why there is no such reading, '' where there is one.
    """

    subject: Subject
    kv_type: str
    ids: tuple[int, ...] = ()
    surprises: tuple[float, ...] = ()
    likeliest: tuple[int, ...] = ()
    step_s: float = 0.0
    depth: int = 0
    problem: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedReading:
    """What an engine told of `model` on `device` with its weights paged; see `WeightsReport`. `at` is Unix seconds."""

    device: str
    model: str
    budget: int
    rate: float
    compute_s: float
    coverage: tuple[float, ...] = ()
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    format: int = 1
    records: tuple[Record, ...] = ()
    kv: tuple[KvReading, ...] = ()
    paged: tuple[PagedReading, ...] = ()


class CalibrationStore:
    """The records in `home`. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / FILE, _File, "engines are measured anew")
        self.measuring_lock = home / "calibration.measuring"
        """Held by whoever measures."""

    def records(self, device: str, model: str | None = None) -> list[Record]:
        """What is known of a device, or of one model on it. Raises OutOfResources where the file cannot be read."""
        found = [record for record in self._file.read().records if record.subject.device == device]
        return [record for record in found if model is None or record.subject.model == model]

    def record(self, subject: Subject) -> Record | None:
        """What is known of `subject`, None where nothing is."""
        return next((record for record in self._file.read().records if record.subject == subject), None)

    def readings(self, device: str) -> list[Reading]:
        """All points measured on a device, for fitting; those of unusable backends are left out."""
        return [reading for record in self.records(device) if not record.verdict for reading in record.readings]

    def update(self, subject: Subject, name: str, edit: Callable[[Record], Record]) -> Record:
        """Replace a record by `edit` of it, beginning at an empty one. Raises OutOfResources."""
        made: list[Record] = []

        def change(content: _File) -> _File:
            old = next((record for record in content.records if record.subject == subject), None)
            made.append(edit(old or Record(subject=subject, name=name)))
            others = tuple(record for record in content.records if not _succeeds(subject, record.subject))
            return replace(content, records=(*others, made[-1]))

        self._file.change(change)
        return made[-1]

    def forget(self, device: str, model: str) -> None:
        """Forget one model, so that it is measured anew. Raises OutOfResources."""

        def change(content: _File) -> _File:
            kept = (r for r in content.records if (r.subject.device, r.subject.model) != (device, model))
            kv = (r for r in content.kv if (r.subject.device, r.subject.model) != (device, model))
            return replace(content, records=tuple(kept), kv=tuple(kv))

        self._file.change(change)

    def kv_readings(self, device: str, model: str) -> list[KvReading]:
        """What is known of KV types with one model on a device. Raises as `records`."""
        return [r for r in self._file.read().kv if (r.subject.device, r.subject.model) == (device, model)]

    def keep_kv(self, reading: KvReading) -> None:
        """Keep `reading` in place of an older one. Raises OutOfResources."""

        def same(old: KvReading) -> bool:
            return old.kv_type == reading.kv_type and _succeeds(reading.subject, old.subject)

        def change(content: _File) -> _File:
            return replace(content, kv=(*(old for old in content.kv if not same(old)), reading))

        self._file.change(change)

    def paged_readings(self, device: str) -> list[PagedReading]:
        """What paging did on a device, the newest of each model. Raises as `records`."""
        return [reading for reading in self._file.read().paged if reading.device == device]

    def keep_paged(self, reading: PagedReading) -> None:
        """Keep `reading` in place of an older one. Raises OutOfResources."""

        def change(content: _File) -> _File:
            others = (r for r in content.paged if (r.device, r.model) != (reading.device, reading.model))
            return replace(content, paged=(*others, reading))

        self._file.change(change)

    def clear(self) -> None:
        """Forget everything."""
        self._file.clear()


def identity(model: LocalModel) -> str:
    """A name for the bytes of a model, the same wherever its files lie: a vouched digest, else one of a sample.

    The sample is the beginning and the end of the first file and the sizes of all. Raises OSError.
    """
    return model.digest or _sampled(model.files, stamp(model.files))


@lru_cache(maxsize=64)
def _sampled(files: tuple[Path, ...], _: str) -> str:
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.sha256(repr(sizes).encode())
    with files[0].open("rb") as file:
        digest.update(file.read(_PIECE))
        file.seek(max(0, sizes[0] - _PIECE))
        digest.update(file.read(_PIECE))
    return "sample-" + digest.hexdigest()


def _succeeds(new: Subject, old: Subject) -> bool:
    """A record of another build of the same library is of no use once there is a newer one."""
    return replace(old, build=new.build) == new
