"""What a child tells of weights that do not all fit, and the decode rate that follows from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

PARTS = 16


class WeightsReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`help` is `paged`, or `mmap` where the kernel alone does better on this disk, or paging has `failed`.

    Bytes: `budget` may be resident, `resident` are, `pinned` are read by every token, `paged` come and go, `read` came
    since loading. `rate` is bytes per second from the disk, `rates` the slowest and the fastest of late, `token_bytes`
    the paged bytes that one token uses, `compute_s` its seconds without waiting for them. `coverage` is the share of
    the router's choices that the most chosen 1, 2, ... sixteenths of the paged weights would serve, () where each token
    needs all of them. `transit` is what of the budget is for weights that only pass through. `layers` are the shares of
    the layers' paged weights that are resident, the first layer first.
    """

    help: Literal["paged", "mmap"]
    budget: int
    resident: int
    pinned: int
    paged: int
    read: int
    rate: float
    token_bytes: int
    compute_s: float = 0.0
    coverage: tuple[float, ...] = ()
    transit: int = 0
    rates: tuple[float, float] | None = None
    failed: str = ""
    layers: tuple[float, ...] = ()

    @property
    def predicted_tps(self) -> float:
        """Decode rate in token/s to expect at the budget; 0 while no token has been computed."""
        if not self.compute_s or self.help != "paged":
            return 0.0
        return 1.0 / seconds(self, self.compute_s, self.budget)

    @property
    def predicted_range(self) -> tuple[float, float]:
        """The same at the slowest and the fastest that the disk has been of late."""
        if not self.predicted_tps or self.rates is None:
            return self.predicted_tps, self.predicted_tps
        low, high = (
            1.0 / seconds(msgspec.structs.replace(self, rate=rate), self.compute_s, self.budget) for rate in self.rates
        )
        return low, high


def seconds(report: WeightsReport, compute_s: float, budget: int) -> float:
    """Per decoded token, with `budget` bytes for weights and `compute_s` seconds of computing.

    A dense model's layers are read while others compute; a router's choice is known only when it is needed.
    """
    share = min(1.0, max(0.0, (budget - report.pinned - report.transit) / max(1, report.paged)))
    if report.coverage:
        return compute_s + (1.0 - covered(report.coverage, share)) * report.token_bytes / report.rate
    return max(compute_s, (1.0 - share) * report.token_bytes / report.rate)


def covered(coverage: Sequence[float], share: float) -> float:
    """Of the choices, by the most chosen `share` of the weights; linear between the known points."""
    points = [0.0, *coverage]
    at = share * (len(points) - 1)
    low = min(int(at), len(points) - 2)
    return points[low] + (at - low) * (points[low + 1] - points[low])


def coverage(counts: Sequence[float]) -> tuple[float, ...]:
    """From how often each unit was chosen. What was never chosen gets the share that Good and Turing give it: as much
    of the future choices as fell on units that were chosen once."""
    whole = sum(counts) or 1.0
    never = sum(1 for count in counts if not count)
    unseen = min(0.5, sum(1 for count in counts if count == 1) / whole) if never else 0.0
    shares = sorted(((1 - unseen) * count / whole if count else unseen / never for count in counts), reverse=True)
    ends = [part * len(shares) // PARTS for part in range(PARTS + 1)]
    return tuple(float(sum(shares[:end])) for end in ends[1:])
