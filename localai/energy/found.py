"""What looking for one kind of sensor gives: those that can be read, and why others cannot."""

from __future__ import annotations

from dataclasses import dataclass

from localai.energy.sensor import Sensor


@dataclass(frozen=True, slots=True)
class Absent:
    """A source of readings that cannot be used: `what` it is, `why` not, and what to do ('' where nothing helps)."""

    what: str
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Found:
    sensors: tuple[Sensor, ...] = ()
    absent: tuple[Absent, ...] = ()
