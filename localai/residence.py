"""Why an idle model stays loaded and until when, and whether one may be loaded ahead: learned from this user's pauses.

Beginnings and ends of uses enter, decisions with their reasons leave; `keep_alive` weighs. Remembers times alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from localai.errors import OutOfResources
from localai.keep_alive import MOST, RENT, Pause, stay
from localai.state_file import StateFile

_log = logging.getLogger(__name__)

_MODELS = 64
"""Models whose pauses are remembered, of those used last."""
_WRITE_S = 60.0
"""Seconds between two writes of the file while models are in use."""
_TYPICAL_SHARE, _LEAST_SHARE = 0.5, 0.02
_THRIFT = 2.0
"""Times that idle memory costs as much where joules count more than waiting."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one model: when its last use ended, in Unix seconds, and the pauses between its uses, oldest first."""

    last: float = 0.0
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True)
class _Uses:
    """The file's content: uses by model."""

    uses: dict[str, Use] = field(default_factory=dict)
    format: int = 1


@dataclass(frozen=True, slots=True)
class Ahead:
    """To be loaded at `begin` for a use that should come before `end`, in Unix seconds; `why` in words."""

    begin: float
    end: float
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An idle model stays loaded for `seconds`; `why` in words. `ahead` is when to load it again unasked."""

    seconds: float
    why: str
    ahead: Ahead | None = None


class Residence:
    """For one home. `close` writes what is not written yet.

    `thrifty` tells whether joules count more than waiting now; `forbids` why nothing may be loaded unasked, ''
    where it may.
    """

    def __init__(
        self,
        path: Path,
        thrifty: Callable[[], bool] = lambda: False,
        forbids: Callable[[], str] = lambda: "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = StateFile(path, _Uses, "the pauses between uses are learned anew")
        self._thrifty = thrifty
        self.forbids = forbids
        self._now = now
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="residence")
        self._uses = dict(self._file.read().uses)
        self._written, self._changed = 0.0, False

    def begun(self, model: str) -> None:
        """A use begins while there was none."""
        use, now = self._uses.get(model), self._now()
        # A clock that was set back tells nothing.
        if use is not None and now > use.last:
            pause = Pause(round(use.last, 1), round(now - use.last, 1))
            self._uses[model] = replace(use, pauses=(*use.pauses, pause)[-MOST:])

    def ended(self, model: str) -> None:
        """The last of the uses at this time has ended."""
        use, now = self._uses.pop(model, Use()), self._now()
        self._uses[model] = replace(use, last=round(now, 1))
        self._changed = True
        if len(self._uses) > _MODELS:
            del self._uses[min(self._uses, key=lambda name: self._uses[name].last)]
        if now - self._written >= _WRITE_S:
            self._written, self._changed = now, False
            self._writer.submit(self._write, dict(self._uses))

    def kept(self, model: str, load_s: float, share: float) -> Kept:
        """What to do after its last use with a model that takes `share` of the memory, and `load_s` seconds to load."""
        now, pauses = self._now(), self._uses.get(model, Use()).pauses
        rent = RENT * max(share, _LEAST_SHARE) / _TYPICAL_SHARE * (_THRIFT if self._thrifty() else 1.0)
        found = stay(pauses, now, load_s, rent)
        if found.likely is None:
            return Kept(found.seconds, "auto: the usual time, until pauses between its uses are known")
        known = f"learned from {len(pauses)} pause{'s'[: len(pauses) > 1]} between its uses"
        why = f"auto: {found.likely:.0%} like this one end by then, {known}"
        if found.warm_from is None:
            return Kept(found.seconds, why)
        begin, end = now + found.warm_from, now + found.warm_to
        said = f"{found.warm_likely:.0%} of such pauses end from {_clock(begin + load_s)} to {_clock(end)}, {known}"
        return Kept(found.seconds, why, Ahead(begin, end, said))

    def close(self) -> None:
        """Write, and wait for it."""
        if self._changed:
            self._writer.submit(self._write, dict(self._uses))
        self._writer.shutdown()

    def _write(self, uses: dict[str, Use]) -> None:
        try:
            self._file.change(lambda _: _Uses(uses))
        except (OutOfResources, OSError) as error:
            _log.warning("the pauses between uses are not remembered: %s", error)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M")
