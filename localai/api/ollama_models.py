"""Models as Ollama describes them: lists, details, what is loaded. Answers from metadata; nothing is loaded for it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from backends.token_names import FIM_NAMES
from localai.api.ollama_out import stamp
from localai.api.served import served_context
from localai.errors import LocalaiError
from localai.header_cache import stamp as stamp_of
from localai.local_model import LocalModel
from localai.templates import ChatTemplate
from localai.turn import Parts

SPOKEN = "0.13.5"
"""The version of Ollama's API that is spoken here; clients refuse one that is no number."""
_FOREVER = 100 * 365 * 86_400.0
_FIM_NOTE = "{# fill-in-the-middle takes .Prompt and .Suffix #}"


def tags(parts: Parts) -> dict[str, Any]:
    """The answer of /api/tags: what can be used now."""
    return {"models": [_listed(model) for model in parts.library.list() if model.problem is None]}


def running(parts: Parts) -> dict[str, Any]:
    """The answer of /api/ps."""
    shown = []
    for slot in parts.pool.slots:
        if slot.handle is None or slot.plan is None or slot.choice.model.header is None:
            continue
        left = _FOREVER if slot.keep_alive < 0 else max(0.0, slot.keep_alive + slot.last_used - time.monotonic())
        shown.append(
            _listed(slot.choice.model)
            | {
                "size": slot.charged,
                "size_vram": 0,
                "context_length": slot.plan.n_ctx,
                "expires_at": stamp(time.time() + left),
            }
        )
    return {"models": shown}


def show(parts: Parts, name: str) -> dict[str, Any]:
    """The answer of /api/show. Raises as `Library.resolve`."""
    model = parts.library.resolve(name, files=False)
    real = model.base or model
    facts = _facts(stamp_of(real.files), real.files) if real.format == "gguf" else _NOTHING
    return {
        "license": model.spec.licence if model.spec else "",
        "modelfile": _modelfile(model, real),
        "parameters": _parameters(model),
        "template": (_FIM_NOTE if facts.fim else "") + facts.template,
        "system": _system(model),
        "details": details(model),
        "model_info": _info(model, real, facts, parts),
        "capabilities": _capabilities(model, facts),
        "modified_at": stamp(_changed(model)),
    }


def details(model: LocalModel) -> dict[str, Any]:
    """What every list says of a model; clients insist on each of these being a text."""
    header = model.header
    family = header.architecture if header else ""
    return {
        "parent_model": model.base.id if model.base else "",
        "format": model.format,
        "family": family,
        "families": [family],
        "parameter_size": _rounded(header.parameters if header else 0),
        "quantization_level": (header.quant if header else "") or "unknown",
    }


def template_of(model: LocalModel) -> str:
    """The chat template of a model's file; '' where it has none."""
    real = model.base or model
    return _facts(stamp_of(real.files), real.files).template if real.format == "gguf" else ""


def capabilities_of(model: LocalModel) -> list[str]:
    """What a model can do, in Ollama's words."""
    real = model.base or model
    return _capabilities(model, _facts(stamp_of(real.files), real.files) if real.format == "gguf" else _NOTHING)


def _listed(model: LocalModel) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": stamp(_changed(model)),
        "size": model.size_bytes,
        # Clients want 64 hexadecimal digits; where nobody vouches for the bytes, they stand for the name.
        "digest": model.digest or hashlib.sha256(model.id.encode()).hexdigest(),
        "details": details(model),
    }


def _changed(model: LocalModel) -> float:
    return model.path.stat().st_mtime


def _rounded(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


class _Facts:
    """What a GGUF's header tells beyond the summary: plain values, template, and what follows from them."""

    def __init__(self, header: GgufHeader | None, fim: bool) -> None:
        self.fim = fim
        self.template = (header.chat_template if header else None) or ""
        self.values: Mapping[str, Any] = {
            key: value
            for key, value in (header.metadata.items() if header else ())
            if isinstance(value, str | int | float) and not key.startswith("tokenizer.")
        }
        self.tools = self.thinks = False
        if self.template:
            try:
                template = ChatTemplate(self.template, "", "", architecture=header.architecture if header else "")
            except LocalaiError:
                return
            self.tools, self.thinks = template.supports_tools, template.reasoning_format is not None


_NOTHING = _Facts(None, False)


@lru_cache(maxsize=32)
def _facts(_: str, files: tuple[Path, ...]) -> _Facts:
    header = read_shards(files[0])[0]
    with files[0].open("rb") as file:
        front = file.read(header.data_offset)
    return _Facts(header, all(any(n.encode() in front for n in FIM_NAMES[p]) for p in ("prefix", "suffix", "middle")))


def _capabilities(model: LocalModel, facts: _Facts) -> list[str]:
    said = model.spec.capabilities if model.spec else ()
    if model.header is not None and (model.header.is_embedding or model.header.is_reranker):
        return ["embedding"]
    found = ["completion"]
    found += ["tools"] * (facts.tools or "tools" in said)
    found += ["insert"] * (facts.fim or "fim" in said)
    return found + ["thinking"] * (facts.thinks or "reasoning" in said)


def _info(model: LocalModel, real: LocalModel, facts: _Facts, parts: Parts) -> dict[str, Any]:
    """Metadata of the file. The context is the served one, because clients fill what this says."""
    header = real.header
    architecture = header.architecture if header else ""
    name = (header.name if header else "") or real.id
    return {
        **facts.values,
        "general.architecture": architecture,
        "general.basename": name if model is real else model.id,
        "general.parameter_count": header.parameters if header else 0,
        f"{architecture}.context_length": served_context(model, parts),
        "localai.trained_tokens": header.n_ctx_train if header else None,
    }


def _system(model: LocalModel) -> str:
    if model.preset is not None and model.preset.system is not None:
        return model.preset.system
    return (model.spec.system if model.spec else None) or ""


def _parameters(model: LocalModel) -> str:
    preset = model.preset
    recommended: dict[str, Any] = {str(k): v for k, v in model.spec.sampling.items()} if model.spec else {}
    values = {**recommended, **(preset.sampling if preset else {})}
    rows = [f"{name} {value:g}" for name, value in values.items()]
    if preset is not None:
        rows += [f"num_ctx {preset.n_ctx}"] * bool(preset.n_ctx) + [f'stop "{stop}"' for stop in preset.stop]
    return "\n".join(rows)


def _modelfile(model: LocalModel, real: LocalModel) -> str:
    rows = [f"FROM {real.id}"]
    if _system(model):
        rows.append(f'SYSTEM """{_system(model)}"""')
    return "\n".join(rows + [f"PARAMETER {row}" for row in _parameters(model).splitlines()])
