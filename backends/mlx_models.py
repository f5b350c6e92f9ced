"""What the MLX engine runs: weights, the description of their graph, the vocabulary, and what the file says of them.

The path of a load order enters, a GGUF file or a model folder; an MlxModel leaves, or an error that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.arch import Arch, arch_of_config, arch_of_gguf
from backends.contract import Load
from backends.convert_mlx import Weights, from_folder, from_gguf
from backends.errors import ModelFileError
from backends.gguf_tensors import GgufTensors
from backends.mlx_modes import mode_named
from backends.tokenizer import Vocabulary, open_tokenizer


@dataclass(frozen=True, slots=True)
class MlxModel:
    """A model that is ready to run."""

    arch: Arch
    weights: Weights
    tokenizer: Vocabulary
    description: str


def open_model(order: Load, progress: Callable[[str, float], None]) -> MlxModel:
    """Read `order.path`. Raises ModelFileError, UnsupportedModel."""
    path = Path(order.path)
    mode = mode_named(order.mode)

    def loaded(fraction: float) -> None:
        progress("weights", fraction)

    if path.is_dir():
        config = _config(path)
        arch = arch_of_config(path.name, config)
        tokenizer = open_tokenizer(path, arch.vocab)
        return MlxModel(arch, from_folder(path, config, arch, mode, loaded), tokenizer, path.name)
    tensors = GgufTensors(path)
    arch = arch_of_gguf(path.name, tensors.headers)
    header = tensors.headers[0]
    description = f"{header.name or path.stem} {header.quant}"
    return MlxModel(arch, from_gguf(tensors, arch, mode, loaded), open_tokenizer(path), description)


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{folder.name}/config.json cannot be read: {error.strerror}"
        raise ModelFileError(message, "download the whole folder again") from error
    except ValueError as error:
        raise ModelFileError(f"{folder.name}/config.json is no JSON: {error}", "download it again") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{folder.name}/config.json is no object", "download it again")
    return config
