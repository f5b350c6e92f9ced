"""What every energy sensor is: joules since it was opened, unwrapped or integrated. Knows no device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from localai.energy.figures import Method, Scope
from localai.errors import SensorFault

_T = TypeVar("_T", int, float)

GONE = "is gone"
"""What a fault says where looking for sensors anew may help."""
_MOST_WATTS = 3000.0
"""More than any part that one sensor covers can draw: a counter that rises faster did not simply wrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a sensor covers and how well. `period_s`: how often its value changes; `lag_s`: how late it does.

    `accuracy` is the sensor's own 95 % error, relative. `covers` is for people.
    """

    id: str
    scope: Scope
    method: Method
    period_s: float
    covers: str
    lag_s: float = 0.0
    jitter_s: float = 0.0
    accuracy: float = 0.05


class Sensor(Protocol):
    """Something that counts joules."""

    @property
    def spec(self) -> Spec: ...

    def read(self, now: float) -> float:
        """Joules since the first reading; `now` is monotonic seconds. Raises SensorFault, then begins anew."""


class CounterSensor:
    """A counter in units of `joules_per_unit` that begins again at 0 after `wraps_at` units, 0 for never."""

    def __init__(self, spec: Spec, raw: Callable[[], int], joules_per_unit: float, wraps_at: int = 0) -> None:
        self.spec = spec
        self._raw = raw
        self._unit = joules_per_unit
        self._wraps_at = wraps_at
        self._last: tuple[float, int] | None = None
        self._total = 0

    def read(self, now: float) -> float:
        """See `Sensor`."""
        last, self._last = self._last, None
        value = _taken(self.spec, self._raw)
        if last is not None:
            self._total += self._risen(last, now, value)
        self._last = (now, value)
        return self._total * self._unit

    def _risen(self, last: tuple[float, int], now: float, value: int) -> int:
        then, old = last
        most = _MOST_WATTS * (now - then + self.spec.period_s) / self._unit
        fault = ""
        if self._wraps_at and most > 2 * self._wraps_at and now - then > 60:
            fault = "was not read for so long that it may have wrapped more than once"
        elif value < old and (not self._wraps_at or value - old + self._wraps_at > min(most, self._wraps_at)):
            fault = "went backwards"
        elif value - old > most:
            fault = "jumped further than any device could draw"
        if fault:
            # The reading itself is sound: the next difference counts from it.
            self._last = (now, value)
            raise SensorFault(f"{self.spec.id} {fault}", "later answers are measured again")
        return value - old if value >= old else value - old + self._wraps_at


class PowerSensor:
    """Watts, integrated by the trapezoid rule; a pause of more than `longest` seconds begins anew."""

    def __init__(self, spec: Spec, watts: Callable[[], float], longest: float = 5.0) -> None:
        self.spec = spec
        self._watts = watts
        self._longest = max(longest, 3 * spec.period_s)
        self._last: tuple[float, float] | None = None
        self._total = 0.0

    def read(self, now: float) -> float:
        """See `Sensor`."""
        last, self._last = self._last, None
        value = _taken(self.spec, self._watts)
        self._last = (now, value)
        if last is not None:
            if now - last[0] > self._longest:
                raise SensorFault(f"{self.spec.id} was not read for {now - last[0]:.0f} s", "power must be read often")
            self._total += (value + last[1]) / 2 * (now - last[0])
        return self._total


def _taken(spec: Spec, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except PermissionError as error:
        raise SensorFault(f"{spec.id} may no longer be read", "`localai doctor` says how to allow it") from error
    except (OSError, ValueError) as error:
        raise SensorFault(f"{spec.id} {GONE}", "`localai doctor` lists the sensors") from error
