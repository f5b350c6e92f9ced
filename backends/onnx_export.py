"""Finds the parts of a decoder exported to ONNX for the hub: its graph, its tokenizer's folder, what its configs say.

The path of a folder or of a `.onnx` file enters; a frozen Export leaves, or ModelFileError with what is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import ModelFileError

_GRAPHS = ("model.onnx", "onnx/model.onnx", "decoder_model.onnx")
_HINT = "download the whole folder again"


@dataclass(frozen=True, slots=True)
class Export:
    """`folder` has the tokenizer and the configs; `n_ctx_train` and `width` are 0 where no config says them."""

    graph: Path
    folder: Path
    architecture: str
    n_ctx_train: int
    width: int
    weight_bytes: int


def find_export(path: Path) -> Export:
    """Raises ModelFileError where there is no graph, or no tokenizer beside it."""
    genai = _json((path if path.is_dir() else path.parent) / "genai_config.json")
    graph = _graph(path, genai) if path.is_dir() else path
    folder = next((each for each in (graph.parent, graph.parent.parent) if (each / "tokenizer.json").exists()), None)
    if folder is None:
        raise ModelFileError(f"{path.name} has no tokenizer.json", _HINT)
    config = _json(folder / "config.json")
    model = genai.get("model", {})
    return Export(
        graph=graph,
        folder=folder,
        architecture=str(config.get("model_type") or model.get("type") or "onnx"),
        n_ctx_train=_first(config.get("max_position_embeddings"), model.get("context_length")),
        width=_first(config.get("hidden_size"), model.get("decoder", {}).get("hidden_size")),
        weight_bytes=sum(each.stat().st_size for each in graph.parent.glob(f"{graph.name}*")),
    )


def _graph(folder: Path, genai: dict[str, Any]) -> Path:
    named = genai.get("model", {}).get("decoder", {}).get("filename")
    names = (named, *_GRAPHS) if isinstance(named, str) and "/" not in named else _GRAPHS
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ModelFileError(f"{folder.name} has no {' or '.join(names)}", _HINT)
    return found


def _first(*values: Any) -> int:
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)


def _json(path: Path) -> dict[str, Any]:
    """A config file's object; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path.name} cannot be read: {error}", _HINT) from error
    return value if isinstance(value, dict) else {}
