"""LM Studio's list of models, which editors ask for what is loaded and with how much context; the rest is OpenAI's."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from localai.api.ollama_models import capabilities_of
from localai.api.served import served_context
from localai.api.wire import JsonRoute, json_response
from localai.local_model import LocalModel
from localai.router import meant
from localai.turn import Parts


def routes(parts: Parts) -> APIRouter:
    """The routes /api/v0/models over one daemon's parts."""
    router = APIRouter(prefix="/api/v0", tags=["LM Studio"], route_class=JsonRoute)

    @router.get("/models")
    async def models() -> Response:
        """Models that can be used now."""
        found = await asyncio.to_thread(parts.library.list)
        rows = await asyncio.to_thread(lambda: [_shown(model, parts) for model in found if model.problem is None])
        return json_response({"object": "list", "data": rows})

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        """One model."""
        wanted = meant(name, parts.config)
        found = await asyncio.to_thread(parts.library.resolve, wanted, files=False)
        return json_response(await asyncio.to_thread(_shown, found, parts))

    return router


def _shown(model: LocalModel, parts: Parts) -> dict[str, Any]:
    header = model.header
    can = capabilities_of(model)
    real = (model.base or model).id
    loaded = any(slot.handle and slot.choice.model.id == real for slot in parts.pool.slots)
    context = {"loaded_context_length": served_context(model, parts)} if loaded else {}
    return {
        "id": model.id,
        "object": "model",
        "type": "embeddings" if "embedding" in can else "llm",
        "publisher": model.origin,
        "arch": header.architecture if header else "",
        "compatibility_type": model.format,
        "quantization": (header.quant if header else "") or "unknown",
        "state": "loaded" if loaded else "not-loaded",
        "max_context_length": (header.n_ctx_train if header else None) or served_context(model, parts),
        **context,
        "capabilities": ["tool_use"] if "tools" in can else [],
    }
