"""What guessing tokens ahead has brought with each model and engine on this device, for plans and `status`.

An engine's counts enter at its end; whether guesses are worth verifying, with the gain or the reason, leaves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.guesses import Guesses
from localai.config import Config
from localai.drafts import BACKENDS
from localai.errors import OutOfResources
from localai.state_file import StateFile

_log = logging.getLogger(__name__)
FILE = "guesses.json"
_TELLING = 24
"""Guessed tokens from which on their worth is told."""
_FADE = 0.7
"""What earlier engines' counts count for: texts and neighbours change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessRecord:
    """Of `model` on one engine: steps with guesses made `made` tokens in the time of `price` steps of one token.

    `drafted` tokens were guessed and `accepted` right. `unguessed` is why the last answer had
    none. `at` is Unix seconds.
    """

    device: str
    model: str
    backend: str
    mode: str
    drafted: float = 0.0
    accepted: float = 0.0
    made: float = 0.0
    price: float = 0.0
    unguessed: str = ""
    at: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.device, self.model, self.backend, self.mode

    @property
    def gain(self) -> float | None:
        """Times the tokens per second of steps with guesses; None where there were none."""
        return self.made / self.price if self.price else None


@dataclass(frozen=True, slots=True)
class _File:
    format: int = 1
    records: tuple[GuessRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether guesses are verified: on, off, or auto where only an answer can tell; `reason` in words."""

    state: str
    gain: float | None
    reason: str


class GuessRecords:
    """Those in `home`. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / FILE, _File, "what guesses bring is found out anew")

    def of(self, device: str, model: str) -> list[GuessRecord]:
        """What is known of a model on a device, one record per backend and mode. Raises OutOfResources."""
        return [r for r in self._file.read().records if (r.device, r.model) == (device, model)]

    def note(self, device: str, model: str, backend: str, mode: str, found: Guesses) -> None:
        """Add an engine's counts; where that cannot be written, later plans are only less exact."""
        if not (found.by or found.unguessed):
            return

        def change(content: _File) -> _File:
            new = GuessRecord(device=device, model=model, backend=backend, mode=mode)
            old = next((r for r in content.records if r.key == new.key), new)
            grown = replace(
                old,
                drafted=_FADE * old.drafted + found.drafted,
                accepted=_FADE * old.accepted + found.accepted,
                made=_FADE * old.made + found.made,
                price=_FADE * old.price + found.price,
                unguessed=found.unguessed,
                at=round(time.time(), 1),
            )
            return replace(content, records=(*(r for r in content.records if r.key != new.key), grown))

        try:
            self._file.change(change)
        except OutOfResources as error:
            _log.warning("what guesses brought is not remembered: %s", error.message)


def verdict(config: Config, backend: str, mode: str, records: Sequence[GuessRecord]) -> Verdict:
    """Whether answers of a model on `backend` would verify guesses, by settings and by what was measured of them."""
    if config.speculation == "off":
        return Verdict("off", None, "it is switched off (speculation)")
    if backend not in BACKENDS:
        return Verdict("off", None, f"{backend} verifies no guesses")
    known = next((r for r in records if (r.backend, r.mode) == (backend, mode)), None)
    gain = known.gain if known else None
    if known is not None and gain is not None:
        right = f"{known.accepted / max(1.0, known.drafted):.0%} of guessed tokens were right"
        if known.drafted < _TELLING and config.speculation == "auto":
            few = f"{known.drafted:.0f} tokens were guessed here so far, too few to tell"
            return Verdict("auto", round(gain, 2), f"{few}; each answer finds out whether it pays")
        if gain > 1.0 or config.speculation != "auto":
            return Verdict("on", round(gain, 2), f"steps with guesses made {gain:.2f} times the tokens; {right}")
        return Verdict(
            "off", round(gain, 2), f"guesses cost more than they gave ({gain:.2f} times the tokens); {right}"
        )
    if config.speculation != "auto":
        return Verdict("on", None, f"{config.speculation} is set; nothing was guessed here yet")
    if known is not None:
        return Verdict("off", None, known.unguessed)
    return Verdict("auto", None, "not measured here yet; each answer finds out whether it pays")
