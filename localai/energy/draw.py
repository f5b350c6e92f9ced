"""What each engine draws while it works, learned from answers: watts beyond idle in, their means out, kept in a file.

Watts change little from model to model, so that they are kept by backend, mode and threads, for one device.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from localai.energy.figures import Quality
from localai.state_file import StateFile

WATTS_PER_CORE = {"arm64": 3.0, "aarch64": 3.0}
"""Watts that one busy core of a machine takes beyond idle, as is typical of phones' and laptops' ARM cores."""
WATTS_PER_X86_CORE = 6.0
_NEW = 0.2
"""Weight of the newest answer in the running means."""
_MOST_OFF = 2.0
"""An answer counts as no more than so many times the mean, and no less than its part."""
HINDERED = ", beside other programs"
"""How the basis of watts ends that were seen while others wanted the cores: any that were not are better."""
_MOVED = 0.05
"""A change smaller than this, relative, is not worth a write."""
_WRITE_S = 10.0
"""Seconds between writes: watts of very short answers jump about, and a write costs more than such an answer."""
_SPREAD: dict[Quality, float] = {"measured": 0.15, "measured_partial": 0.2, "modelled": 0.6, "none": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Watts beyond idle in each phase, None where it was not seen yet. `quality` is that of the readings behind it."""

    threads: int
    prefill: float | None = None
    decode: float | None = None
    quality: Quality = "modelled"
    basis: str = "typical watts"

    @property
    def most(self) -> float:
        """Watts of the phase that draws more."""
        return max(self.prefill or 0.0, self.decode or 0.0)

    @property
    def spread(self) -> float:
        """Half the width of the 95 % interval, relative."""
        return _SPREAD[self.quality]

    def scaled(self, threads: int) -> Draw:
        """The same for another number of threads, in proportion: then no measurement any more."""
        if threads == self.threads or not self.threads:
            return self
        ratio = threads / self.threads
        return Draw(
            threads=threads,
            prefill=None if self.prefill is None else ratio * self.prefill,
            decode=None if self.decode is None else ratio * self.decode,
            basis=f"watts at {self.threads} threads",
        )


def typical_watts(machine: str) -> float:
    """Watts beyond idle of one busy core of such a machine."""
    return WATTS_PER_CORE.get(machine, WATTS_PER_X86_CORE)


def typical(threads: int, watts: float = 0.0) -> Draw:
    """Before anything was seen: so many busy cores at `watts` each, 0 for what is typical of this kind of machine."""
    each = threads * (watts or typical_watts(platform.machine()))
    return Draw(threads=threads, prefill=each, decode=each)


@dataclass(frozen=True, slots=True)
class Kept:
    """The file's content: draws by `backend mode threads`, and the device that they hold for."""

    device: str = ""
    draws: dict[str, Draw] = field(default_factory=dict)
    format: int = 1


class Draws:
    """The draws of the device with this fingerprint, in a file. Any thread may ask; `close` waits for its writes."""

    def __init__(self, path: Path, device: str) -> None:
        self._file = StateFile(path, Kept, "watts are learned again")
        self._device = device
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="watts")
        found = self._file.read()
        self._draws = dict(found.draws) if found.device == device else {}
        self._written = dict(self._draws)
        self._rests_until = 0.0

    def of(self, backend: str, mode: str, threads: int = 0) -> Draw | None:
        """What was learned for so many threads (0: any), else for others in proportion; None where nothing was."""
        own = self._draws.get(_name(backend, mode, threads))
        if own is not None:
            return own
        others = [draw for name, draw in self._draws.items() if name.rpartition(" ")[0] == f"{backend} {mode}"]
        if not others:
            return None
        near = min(others, key=lambda draw: abs(draw.threads - threads))
        return near.scaled(threads) if threads else near

    def learn(self, backend: str, mode: str, seen: Draw) -> None:
        """Take an answer's watts into account; better readings replace what was worked out before."""
        name = _name(backend, mode, seen.threads)
        old = self._draws.get(name)
        if old is not None and old.quality == seen.quality and HINDERED in seen.basis and HINDERED not in old.basis:
            return
        if old is None or old.quality != seen.quality or (HINDERED in old.basis and HINDERED not in seen.basis):
            new = seen
        else:
            new = replace(old, prefill=_mean(old.prefill, seen.prefill), decode=_mean(old.decode, seen.decode))
        self._draws[name] = new
        written = self._written.get(name)
        if time.monotonic() >= self._rests_until and (written is None or _moved(written, new)):
            self._rests_until = time.monotonic() + _WRITE_S
            self._write()

    def _write(self) -> None:
        self._written = dict(self._draws)
        self._writer.submit(self._file.change, self._content(self._written))

    def _content(self, draws: dict[str, Draw]) -> Callable[[Kept], Kept]:
        return lambda _: Kept(self._device, draws)

    def close(self) -> None:
        """Write what is new, and wait for it."""
        if self._written != self._draws:
            self._write()
        self._writer.shutdown()


def _name(backend: str, mode: str, threads: int) -> str:
    return f"{backend} {mode} {threads}"


def _mean(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return old if new is None else new
    # One answer that took many times the watts, or a part of them, must not decide what the next ones are told.
    return old + _NEW * (min(max(new, old / _MOST_OFF), _MOST_OFF * old) - old)


def _moved(old: Draw, new: Draw) -> bool:
    if old.quality != new.quality or (old.prefill is None) != (new.prefill is None):
        return True
    pairs = ((old.prefill, new.prefill), (old.decode, new.decode))
    return any((a is None) != (b is None) or (a and b and abs(b - a) > _MOVED * a) for a, b in pairs)
