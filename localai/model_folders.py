"""Models that are folders: MLX's layout (config.json, .safetensors), and ONNX exports (a graph, its config).

A folder enters; its files, a summary, or the sizes that memory and speed depend on leave. Reads the JSON files only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backends.arch import Arch, arch_of_config
from backends.errors import ModelFileError, UnsupportedModel
from localai.budget import Sizes
from localai.header_cache import HeaderSummary
from localai.readings import Shape

Format = Literal["gguf", "mlx", "onnx", "echo"]

_CONFIG, _GENAI = "config.json", "genai_config.json"
_LARGEST_JSON = 4 * 2**20
_GRAPHS = ("model.onnx", "model_q4.onnx", "model_quantized.onnx", "model_fp16.onnx")
_AGAIN = "download the folder again"


def format_of(folder: Path) -> Format | None:
    """How the model in `folder` is stored; None where it holds none."""
    if _graph(folder) is not None and any((folder / name).is_file() for name in (_GENAI, _CONFIG)):
        return "onnx"
    if (folder / _CONFIG).is_file() and any(folder.glob("*.safetensors")):
        return "mlx"
    return None


def folder_files(folder: Path, layout: Format) -> tuple[Path, ...]:
    """What the model consists of: its description first, then its weights."""
    described = [folder / name for name in (_CONFIG, _GENAI) if (folder / name).is_file()]
    if layout == "mlx":
        return (*described, *sorted(folder.glob("*.safetensors")))
    graph = _graph(folder)
    # External data lies beside the graph under names that only the graph knows.
    beside = [] if graph is None else sorted(graph.parent.glob(f"{graph.stem}.onnx*"))
    return (*described, *beside)


def summary_of(folder: Path, layout: Format) -> HeaderSummary:
    """What lists and choices need. Raises ModelFileError where the description cannot be read."""
    config = _config(folder)
    packed = config.get("quantization")
    graph = _graph(folder)
    if isinstance(packed, Mapping) and "bits" in packed:
        quant = f"{packed['bits']}-bit"
    elif layout == "onnx" and graph is not None:
        quant = graph.stem.removeprefix("model").strip("_") or "onnx"
    else:
        quant = str(config.get("torch_dtype") or config.get("dtype") or "").upper()
    trained = config.get("max_position_embeddings")
    return HeaderSummary(
        architecture=str(config.get("model_type") or "unknown")[:64],
        name=folder.name[:200],
        quant=quant[:32],
        n_ctx_train=trained if isinstance(trained, int) else None,
        parameters=0,
        is_embedding=False,
        is_reranker=False,
        has_template=(folder / "chat_template.jinja").is_file()
        or "chat_template" in _json(folder / "tokenizer_config.json"),
    )


def folder_arch(folder: Path) -> Arch:
    """The architecture. Raises UnsupportedModel, ModelFileError."""
    return arch_of_config(folder.name, _config(folder))


def folder_sizes(folder: Path, weight_bytes: int) -> Sizes:
    """What memory depends on; only the weights where the architecture is not known. Raises ModelFileError."""
    try:
        arch = folder_arch(folder)
    except UnsupportedModel:
        return Sizes(weight_bytes, 0, 0, 0, 0, 0)
    kv = 2 * arch.layers * arch.kv_width
    return Sizes(weight_bytes, kv, arch.width, arch.ffn, arch.vocab, arch.n_ctx_train)


def folder_shape(folder: Path, weight_bytes: int, quant: str) -> Shape:
    """The sizes that a step's cost depends on. Raises UnsupportedModel, ModelFileError."""
    arch = folder_arch(folder)
    attention = 2 * arch.width * (arch.heads * arch.head_dim + arch.kv_width)
    body = arch.layers * (attention + 3 * arch.width * arch.ffn)
    head = arch.width * arch.vocab
    each = weight_bytes / (body + (1 if arch.tied else 2) * head)
    return Shape(
        architecture=arch.family,
        quant=quant,
        layers=arch.layers,
        width=arch.width,
        weight_bytes=int(each * (body + head)),
        resident_bytes=weight_bytes,
        flops=2 * body,
        head_flops=2 * head,
        kv_values=2 * arch.layers * arch.kv_width,
        attention_flops=4 * arch.layers * arch.heads * arch.head_dim,
        head_bytes=int(each * head),
        head_type=quant,
    )


def _graph(folder: Path) -> Path | None:
    places = (place / name for place in (folder, folder / "onnx") for name in _GRAPHS)
    return next((path for path in places if path.is_file()), None)


def _config(folder: Path) -> Mapping[str, Any]:
    """config.json; of an export that has only genai_config.json, what that says under the same names."""
    if (folder / _CONFIG).is_file():
        return _json(folder / _CONFIG)
    model = _json(folder / _GENAI).get("model")
    if not isinstance(model, dict):
        raise ModelFileError(f"{_GENAI} in {folder.name} names no model", _AGAIN)
    inner = model.get("decoder")
    decoder = inner if isinstance(inner, dict) else {}
    return {
        "model_type": model.get("type"),
        "max_position_embeddings": model.get("context_length"),
        "vocab_size": model.get("vocab_size"),
        "hidden_size": decoder.get("hidden_size"),
        "num_attention_heads": decoder.get("num_attention_heads"),
        "num_key_value_heads": decoder.get("num_key_value_heads"),
        "num_hidden_layers": decoder.get("num_hidden_layers"),
        "head_dim": decoder.get("head_size"),
        "intermediate_size": 4 * (decoder.get("hidden_size") or 0),
    }


def _json(path: Path) -> dict[str, Any]:
    """An object; {} where there is no file. Raises ModelFileError."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelFileError(f"{path.name} in {path.parent.name} is too large to be a description", _AGAIN)
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path.name} in {path.parent.name} cannot be read", _AGAIN) from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path.name} in {path.parent.name} holds no object", _AGAIN)
    return value
