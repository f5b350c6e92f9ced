"""How a model larger than the memory would do with its weights paged, before it is loaded: plans and rates.

A row that does not fit and what paging did here enter, a row that fits leaves. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from backends.gguf_header import GgufHeader
from backends.paging_layout import Layout, layout
from backends.paging_report import WeightsReport, seconds
from localai.calibration_store import PagedReading
from localai.disk_rate import DiskRate
from localai.errors import OutOfResources
from localai.paged_plan import PagedPlan, paged_plan
from localai.planner import CHUNK, Asked, Paged, Room, Row, prompt_steps
from localai.roofline import Prediction

_USUAL_RATE = 1e9
"""Bytes per second that a disk of today gives, where no paging has told what this one does."""
_SPREAD = {"model": math.log(1.25), "device": math.log(1.6), "nothing": math.log(4.0)}
"""Logarithms of the factor about a prediction in which nine of ten should lie, by what was measured."""


class PagedRows:
    """For one device; `readings` are of paged engines on it, `model` is the one that is planned, '' where unknown.

    `disk` reads the disk's rate anew, for layers or for experts, and is asked once, where a row has to be paged: what
    it was last time may be far from what it is now. None where the model is not here.
    """

    def __init__(
        self,
        room: Room,
        asked: Asked,
        readings: Sequence[PagedReading],
        model: str,
        disk: Callable[[bool], DiskRate | None] = lambda _: None,
    ) -> None:
        self._room = room
        self._asked = asked
        self._own = next((r for r in readings if r.model == model), None) if model else None
        self._other = max(readings, key=lambda r: r.at, default=None)
        self._disk = cache(disk)

    def row(self, row: Row) -> Row | None:
        """`row`, which does not fit, with its weights paged; None where not even that fits."""
        headers = row.variant.parts
        if row.way.backend != "llama.cpp" or row.gpu_layers or not headers or headers[0].is_embedding:
            return None
        n_ctx = self._asked.n_ctx
        try:
            plan = paged_plan(headers, n_ctx, self._room.ram, row.way.kv_type)
            if plan.n_ctx < self._asked.tokens:
                plan = paged_plan(headers, self._asked.tokens, self._room.ram, row.way.kv_type)
        except OutOfResources:
            return None
        return self._filled(row, plan, layout(headers), headers)

    def _filled(self, row: Row, plan: PagedPlan, found: Layout, headers: Sequence[GgufHeader]) -> Row:
        report = self._report(plan, found, headers)
        known = self._own or self._other
        said = "model" if self._own else "device" if self._other else "nothing"
        compute_s = self._own.compute_s if self._own else 1 / row.decode.value
        each = seconds(report, compute_s, plan.weights)
        basis, spread = self._trust(row, said, self._disk(not found.used))
        decode = _about(1 / each, spread, basis, measured=known is not None)
        # A long piece of a prompt touches every expert and every layer once.
        share = min(1.0, max(0.0, (plan.weights - report.pinned - report.transit) / max(1, report.paged)))
        pass_s = (1 - share) * report.paged / report.rate
        pieces = len(prompt_steps(self._asked.tokens))
        prefill = _about(CHUNK / (CHUNK / row.prefill.value + pass_s), spread, basis, measured=known is not None)
        ttft = _about(row.ttft.value + pieces * pass_s, spread, basis, measured=known is not None)
        return replace(
            row,
            n_ctx=plan.n_ctx,
            need=replace(row.need, weights=plan.weights, kv=plan.kv, compute=plan.compute),
            ram=plan.total,
            vram=0,
            fits=True,
            prefill=prefill,
            decode=decode,
            ttft=ttft,
            paged=Paged(plan.weights, report.pinned, sum(header.weight_bytes for header in headers)),
        )

    def _trust(self, row: Row, said: str, now: DiskRate | None) -> tuple[str, float]:
        """What the prediction rests on, in words, and the logarithm of its spread."""
        basis = {
            "model": "paging of this model on this device",
            "device": "paging of another model on this device",
            "nothing": f"typical figures of a disk ({_USUAL_RATE / 1e9:g} GB/s): nothing was paged here",
        }[said]
        spread = _SPREAD[said]
        if now is not None:
            before = "nothing was paged here" if said == "nothing" else basis
            basis = f"{before}; the disk read now ({now.low / 1e9:.2g}-{now.high / 1e9:.2g} GB/s)"
            # The rate, which differs most, is known; what remains is computing, and how the disk goes up and down.
            other = _SPREAD["model" if said == "model" else "device"]
            spread = math.hypot(other, math.log(max(now.high / now.usual, now.usual / now.low)))
        if said != "model":
            spread = math.hypot(spread, math.log(row.decode.high / row.decode.value))
        return basis, spread

    def _report(self, plan: PagedPlan, found: Layout, headers: Sequence[GgufHeader]) -> WeightsReport:
        """What a child would tell with this plan. Where a router's habits are unknown, all experts count alike."""
        paged = sum(extent.size for unit in found.units.values() for extent in unit)
        experts = headers[0].number("expert_count") or 0
        flat = tuple((part + 1) / 16 for part in range(16)) if found.used else ()
        known, now = self._own or self._other, self._disk(not found.used)
        return WeightsReport(
            help="paged",
            budget=plan.weights,
            resident=0,
            pinned=found.pinned_bytes,
            paged=paged,
            read=0,
            rate=now.usual if now else known.rate if known else _USUAL_RATE,
            token_bytes=int(paged * found.used / experts) if found.used else paged,
            coverage=self._own.coverage if self._own else flat,
            transit=found.transit,
        )


def _about(value: float, spread: float, basis: str, *, measured: bool) -> Prediction:
    factor = math.exp(spread)
    return Prediction(value, value / factor, value * factor, basis, measured)
