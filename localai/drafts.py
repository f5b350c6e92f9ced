"""Which small model guesses tokens for a large one: named in `models.toml`, or for the default model by a setting."""

from __future__ import annotations

from localai.config import Config
from localai.errors import BadRequest
from localai.library import Library
from localai.local_model import LocalModel

BACKENDS = frozenset({"llama.cpp", "onnx"})
"""Engines that can verify guesses."""


def draft_for(model: LocalModel, backend: str, config: Config, library: Library) -> LocalModel | None:
    """The draft model of `model` on `backend`; None where none is named, or speculation is off.

    Raises UnknownModel and NotFound where it is not here, BadRequest where it is no GGUF file.
    """
    if config.speculation not in ("auto", "draft") or backend not in BACKENDS or model.format != "gguf":
        return None
    name = model.spec.draft if model.spec else ""
    if config.draft and library.resolve(config.default_model).path == model.path:
        name = config.draft
    if not name:
        return None
    draft = library.resolve(name)
    if draft.format != "gguf":
        raise BadRequest(f"the draft model {draft.id} is no GGUF file", "name one that is")
    return draft
