"""The times of an answer from another machine, as they pass here: network and queueing there are part of them."""

from __future__ import annotations

import time

from localai.decoding import Clock
from localai.energy.figures import Energy
from localai.messages import Summary, Timings


class Stopwatch:
    """Started when the request is sent; `saw` each piece of text."""

    def __init__(self, clock: Clock) -> None:
        self._started = clock.started
        self._sent = time.monotonic()
        self._first: float | None = None
        self._last = self._sent

    def saw(self) -> None:
        self._last = time.monotonic()
        self._first = self._last if self._first is None else self._first

    def summary(self, prompt: int | None, cached: int, completion: int | None, energy: Energy) -> Summary:
        """Counts are None where the other machine did not tell. Its prefill rate is unknown: the network is in it."""
        first, now = self._first, time.monotonic()
        decode_s = self._last - first if first is not None else 0.0
        made = (completion or 0) - 1
        timings = Timings(
            queue_ms=0.0,
            load_ms=0.0,
            restore_ms=0.0,
            ttft_ms=None if first is None else _ms(first - self._started),
            prefill_ms=_ms((now if first is None else first) - self._sent),
            decode_ms=_ms(decode_s),
            prefill_tps=None,
            decode_tps=round(made / decode_s, 2) if made > 0 and decode_s > 0 else None,
            total_ms=_ms(now - self._started),
        )
        return Summary(
            prompt_tokens=prompt or 0,
            cached_tokens=min(cached, prompt or 0),
            completion_tokens=completion or 0,
            timings=timings,
            energy=energy,
            counted=prompt is not None and completion is not None,
        )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
