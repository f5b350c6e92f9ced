"""The context that a model is served with: what clients fill, wherever they read it."""

from __future__ import annotations

from localai.local_model import LocalModel
from localai.turn import Parts

USUAL_CTX = 32_768


def served_context(model: LocalModel, parts: Parts) -> int:
    """Tokens that a prompt may have: as loaded, or else as it would be loaded."""
    real = model.base or model
    loaded = [s.plan.n_ctx for s in parts.pool.slots if s.plan is not None and s.choice.model.id == real.id]
    trained = real.header.n_ctx_train if real.header else None
    return max(loaded, default=parts.config.ctx or min(trained or USUAL_CTX, USUAL_CTX))
