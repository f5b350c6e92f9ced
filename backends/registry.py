"""Backend names to engines. Each is imported only when asked for, because each brings a heavy library."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from backends.contract import Load
from backends.engine import Engine
from backends.errors import MissingExtra, UnsupportedModel

Progress = Callable[[str, float], None]

_ENGINES = {
    "llama.cpp": ("backends.llama_cpp", "LlamaCppEngine"),
    "mlx": ("backends.mlx", "MlxEngine"),
    "onnx": ("backends.onnx", "OnnxEngine"),
    "echo": ("backends.echo", "EchoEngine"),
}
_MODES = {("onnx", "paged"): ("backends.onnx_paged", "PagedEngine")}
"""Modes that are engines of their own."""
_EXTRAS = {"mlx": "'localai-daemon[mlx]'"}
NAMES = tuple(name for name in _ENGINES if name != "echo")


def open_engine(order: Load, progress: Progress) -> Engine:
    """Load `order.path` with `order.backend`. Raises BackendError with the reason and what to do."""
    if order.backend not in _ENGINES:
        raise UnsupportedModel(f"no backend named {order.backend!r}", f"choose one of: {', '.join(NAMES)}")
    module, name = _MODES.get((order.backend, order.mode), _ENGINES[order.backend])
    try:
        engine = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        wanted = _EXTRAS.get(order.backend, f"'localai-daemon' {error.name}")
        message = f"backend {order.backend} needs the package {error.name}"
        raise MissingExtra(message, f"pip install {wanted}") from error
    return cast(Engine, engine(order, progress))
