"""The daemon's own routes: health and metrics for anyone on loopback, status and models for the socket's user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from localai import __version__
from localai.api.wire import JsonRoute, json_response
from localai.energy.report import By
from localai.kv_cache import KvCache
from localai.metrics import Metrics
from localai.pressure import pressure
from localai.slot import Slot
from localai.status import spent, status
from localai.turn import Parts


class UnloadBody(BaseModel):
    model: str


def routes(parts: Parts, metrics: Metrics, kv_cache: KvCache, started: float, stop: Callable[[], None]) -> APIRouter:
    """Routes over one daemon's parts; `stop` asks the daemon to end gracefully."""
    router = APIRouter(tags=["daemon"], route_class=JsonRoute)

    @router.get("/health")
    async def health() -> Response:
        """Alive; never waits for an engine."""
        return json_response({"status": "ok", "version": __version__})

    @router.get("/metrics")
    async def prometheus() -> Response:
        """Counters in Prometheus' text format."""
        await asyncio.to_thread(kv_cache.refresh)
        _look(parts.pool.slots, metrics)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/localai/status")
    async def report() -> Response:
        """What is loaded, what it takes, and what was answered today."""
        return json_response(await asyncio.to_thread(status, parts, started))

    @router.get("/localai/queries")
    async def queries(limit: int = 20) -> Response:
        """The newest rows of the ledger."""
        return json_response({"queries": await asyncio.to_thread(parts.ledger.last, max(1, min(limit, 1000)))})

    @router.get("/localai/energy")
    async def energy(by: By = "day", days: int = 30) -> Response:
        """Joules, kWh, cost and CO2 of the answers of the last days, and what the sensors have seen."""
        return json_response(await asyncio.to_thread(spent, parts, by, max(1, min(days, 3660))))

    @router.get("/localai/plan")
    async def plan(model: str, ctx: int = 0, tokens: int = 512, ram: int = 0, vram: int | None = None) -> Response:
        """Which ways of running `model`, here or on the hub, fit, and how fast each would be; bytes and tokens."""
        # Seldom asked for, and it brings numpy.
        from localai.plans import Limits, plan_model
        from localai.variants import Finder

        limits = Limits(ctx, tokens, ram, vram).checked()
        known = Finder(parts.library), parts.market.readings, parts.market.draws, parts.market.kv_costs
        paging = parts.market.paged_readings
        return json_response(await asyncio.to_thread(plan_model, model, limits, parts.config, *known, paging))

    @router.post("/localai/unload")
    async def unload(body: UnloadBody) -> dict[str, Any]:
        """Unload a model as soon as it is idle; for a sibling, its base."""
        model = parts.library.resolve(body.model)
        loaded = model.base or model
        return {"unloaded": await parts.pool.unload(loaded.id), "model": loaded.id}

    @router.post("/localai/stop")
    async def end() -> dict[str, Any]:
        """End the daemon after running requests."""
        stop()
        return {"stopping": True}

    return router


def _look(slots: Sequence[Slot], metrics: Metrics) -> None:
    """Set the gauges to what is loaded now."""
    metrics.engines.labels("loaded").set(sum(s.handle is not None for s in slots))
    metrics.engines.labels("loading").set(sum(s.handle is None for s in slots))
    metrics.charged.set(sum(s.charged for s in slots))
    reports = {s.choice.model.id: s.handle.weights for s in slots if s.handle and s.handle.weights}
    metrics.weights.hold(reports, pressure())
