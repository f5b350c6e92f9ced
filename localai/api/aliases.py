"""Other paths of routes that are here already: llama-server's without `/v1`, and LM Studio's older API."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {
    "/v1/health": "/health",
    "/models": "/v1/models",
    "/completions": "/completion",
    "/chat/completions": "/v1/chat/completions",
    "/embeddings": "/embedding",
    "/api/v0/chat/completions": "/v1/chat/completions",
    "/api/v0/completions": "/v1/completions",
    "/api/v0/embeddings": "/v1/embeddings",
}
