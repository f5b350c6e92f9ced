"""What each engine has to offer for a request: can it run the model, how fast is it here, is it loaded, what it holds.

Joins `offers`, the calibration store and the pool. It remembers which engine read the beginning of which text.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from localai.calibration_store import CalibrationStore, Fidelity, PagedReading, Record, identity
from localai.choice import Choice
from localai.choosing import Option
from localai.energy.draw import Draws, typical
from localai.energy.prediction import token_rates
from localai.energy.taps import Rates
from localai.errors import OutOfResources
from localai.forecast import Speeds, fastest_of
from localai.kv_accuracy import Key, KvCost, costs_here
from localai.local_model import LocalModel
from localai.measuring import OVERDUE
from localai.offers import backend, build_label, usable
from localai.readings import Reading

_BLOCK = 256
"""Characters that are compared as one."""
_BLOCKS = 16_384
_FAITHFUL, _ALIKE = 1.01, 0.93
"""What a faster, less exact way of computing must keep of perplexity and likeliest tokens to be chosen unasked."""

EngineKey = tuple[str, str, str]


class EngineSeen(Protocol):
    """What the market needs to know of an engine in the pool."""

    @property
    def key(self) -> EngineKey: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def users(self) -> int: ...
    @property
    def last_used(self) -> float: ...
    @property
    def charged(self) -> int: ...


class Market:
    """Safe to use from several threads.

    `engines` lists the pool's engines, `barred` says why an engine must not start now ('' where it may), `measuring`
    what is being measured.
    """

    def __init__(
        self,
        device: str,
        store: CalibrationStore,
        engines: Callable[[], tuple[EngineSeen, ...]],
        barred: Callable[[Choice], str],
        measuring: Callable[[], str] = lambda: "",
        draws: Draws | None = None,
    ) -> None:
        self._device = device
        self._store = store
        self._engines = engines
        self._barred = barred
        self.measuring = measuring
        self.draws = draws
        self._prefixes = Prefixes()
        self._speeds: dict[tuple[str, str, str, str, float], Speeds | None] = {}

    def options(self, model: LocalModel, text: str) -> list[Option]:
        """One for each backend and mode that can run `model` here, in the order of preference before measuring.

        `held` counts tokens of `text`. Raises OutOfResources where the store cannot be read, OSError for the model.
        """
        base = model.base or model
        known = {(r.subject.backend, r.subject.mode, r.subject.build): r for r in self.records(base)}
        seen = {engine.key: engine for engine in self._engines()}
        self._prefixes.keep_only(set(seen))
        found = []
        for name in usable(model):
            for mode in backend(name).modes:
                record = known.get((name, mode, build_label(name)))
                # Less exact ways of computing are for those who name them, unless they were measured to be harmless.
                if not mode or (record and _faithful(record.fidelity)):
                    found.append(self._option(Choice(base, name, 0, "", mode), record, seen, text))
        return found

    def records(self, model: LocalModel) -> list[Record]:
        """What was measured of `model` on this device. Raises as `options`."""
        return self._store.records(self._device, identity(model))

    def all_records(self) -> list[Record]:
        """What was measured of all models on this device. Raises OutOfResources where the store cannot be read."""
        return self._store.records(self._device)

    def readings(self, device: str) -> list[Reading]:
        """All points measured on the device with this fingerprint. Raises as `all_records`."""
        return self._store.readings(device)

    def kv_costs(self, device: str, model: LocalModel) -> dict[Key, KvCost]:
        """What KV types cost with `model` on the device with this fingerprint. Raises OSError."""
        return costs_here(self._store, device, model)

    def paged_readings(self, device: str) -> list[PagedReading]:
        """What paging did on the device with this fingerprint. Raises as `all_records`."""
        return self._store.paged_readings(device)

    def rates(self, choice: Choice) -> Rates | None:
        """What tokens should take on this engine before it has answered.

        None where it was not measured, or where what was measured cannot be read: an answer does not depend on it.
        """
        model = choice.model.base or choice.model
        try:
            records = self.records(model)
        except OutOfResources:
            return None
        mine = (choice.backend, choice.mode, build_label(choice.backend))
        known = (r for r in records if (r.subject.backend, r.subject.mode, r.subject.build) == mine)
        speeds = self._speeds_of(next(known, None))
        draw = self.draws.of(choice.backend, choice.mode) if self.draws is not None else None
        if speeds is None:
            return None
        return token_rates(speeds, draw or typical(max(1, round(speeds.busy))))

    def note(self, choice: Choice, text: str) -> None:
        """This engine reads `text` now."""
        self._prefixes.note(choice.key, text)

    def _option(self, choice: Choice, record: Record | None, seen: dict[EngineKey, EngineSeen], text: str) -> Option:
        engine = seen.get(choice.key)
        verdict, barred = record.verdict if record else "", self._barred(choice)
        loaded = engine is not None and engine.loaded
        share = self._prefixes.share(choice.key, text) if engine is not None else 0.0
        return Option(
            backend=choice.backend,
            mode=choice.mode,
            problem=verdict or barred,
            late=verdict.startswith(OVERDUE) and not barred,
            speeds=self._speeds_of(record),
            loaded=loaded,
            held=round(share * len(text) / 4),
            users=engine.users if engine is not None else 0,
            last_used=engine.last_used if engine is not None else 0.0,
            draw=self.draws.of(choice.backend, choice.mode) if self.draws is not None else None,
            memory=engine.charged if engine is not None and engine.charged else (record.rss if record else 0),
        )

    def _speeds_of(self, record: Record | None) -> Speeds | None:
        if record is None or not record.readings:
            return None
        key = (record.subject.model, record.subject.backend, record.subject.mode, record.subject.build, record.at)
        if key not in self._speeds:
            if len(self._speeds) > 64:
                self._speeds.clear()
            found = fastest_of(record.readings)
            self._speeds[key] = found[1] if found else None
        return self._speeds[key]


class Prefixes:
    """Which texts each engine read, as hashes of their beginnings. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[EngineKey, OrderedDict[bytes, None]] = {}

    def note(self, key: EngineKey, text: str) -> None:
        with self._lock:
            known = self._read.setdefault(key, OrderedDict())
            for block in _blocks(text):
                known[block] = None
                known.move_to_end(block)
            while len(known) > _BLOCKS:
                known.popitem(last=False)

    def share(self, key: EngineKey, text: str) -> float:
        """How much of the beginning of `text` this engine has read, 0 to 1."""
        with self._lock:
            known = self._read.get(key)
            if not known or not text:
                return 0.0
            count = 0
            for block in _blocks(text):
                if block not in known:
                    break
                count += 1
            return min(1.0, count * _BLOCK / len(text))

    def keep_only(self, keys: set[EngineKey]) -> None:
        """Forget engines that are gone."""
        with self._lock:
            for key in self._read.keys() - keys:
                del self._read[key]


def _blocks(text: str) -> list[bytes]:
    """A hash for each whole block that covers all before it too."""
    digest = hashlib.blake2b(digest_size=12)
    found = []
    for begin in range(0, len(text) - _BLOCK + 1, _BLOCK):
        digest.update(text[begin : begin + _BLOCK].encode("utf-8", "replace"))
        found.append(digest.digest())
    return found


def _faithful(fidelity: Fidelity | None) -> bool:
    if fidelity is None or fidelity.ratio is None or fidelity.agreement is None:
        return False
    return fidelity.ratio <= _FAITHFUL and fidelity.agreement >= _ALIKE
