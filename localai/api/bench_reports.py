"""The last finished benchmark of this home over HTTP, for the terminal chat."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.errors import NotFound


def routes(home: Path) -> APIRouter:
    """The route /localai/bench."""
    router = APIRouter(tags=["daemon"], route_class=JsonRoute)

    @router.get("/localai/bench")
    async def newest() -> Response:
        """Results of the last finished run, its notes, and accuracy against joules as a plot in text."""
        return json_response(await asyncio.to_thread(_newest, home))

    return router


def _newest(home: Path) -> dict[str, Any]:
    # Seldom asked for, and it brings numpy.
    import msgspec

    from localai.bench import journal, pareto, report

    found = sorted(journal.folder(home).glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NotFound("no benchmark was finished here yet", "`localai bench` makes one")
    read = report.read(found[-1])
    return {
        "name": found[-1].parent.name,
        "started": read.started,
        "suite": read.suite["name"],
        "notes": read.notes,
        "results": [msgspec.to_builtins(result) for result in read.results],
        "front": [name for _, group in pareto.by_quality(read.results) for name in pareto.front(group)],
        "plot": pareto.terminal(read.results),
    }
