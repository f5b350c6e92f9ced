"""The catalogue over HTTP: what could be pulled, and about what each model would cost on this machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.errors import LocalaiError
from localai.turn import Parts


def routes(parts: Parts) -> APIRouter:
    """The route /localai/catalog."""
    router = APIRouter(tags=["daemon"], route_class=JsonRoute)

    @router.get("/localai/catalog")
    async def catalog() -> Response:
        """The catalogue's models that are not here yet, and about what each would cost; nothing is asked of a hub."""
        return json_response({"models": await asyncio.to_thread(_offered, parts)})

    return router


def _offered(parts: Parts) -> list[dict[str, Any]]:
    # Seldom asked for, and it brings numpy.
    from localai.offered_models import offered
    from localai.plans import Limits, plan_model
    from localai.variants import Finder

    here = [model for model in parts.library.list() if model.problem is None]
    plan = None
    for model in here:
        with suppress(LocalaiError):
            readings, draws = parts.market.readings, parts.market.draws
            plan = plan_model(model.id, Limits(), parts.config, Finder(parts.library), readings, draws)
            break
    return offered(parts.library.catalog.specs, (model.spec.id for model in here if model.spec), plan)
