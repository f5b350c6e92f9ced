"""Which backends can run a model on this machine, and why the others cannot.

A model enters; one Offer per backend leaves. Nothing heavy is imported: packages are looked up, headers are read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from backends import registry
from backends.arch import arch_of_gguf
from backends.errors import BackendError, ModelFileError
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from backends.mlx_modes import MODES as MLX_MODES
from backends.onnx_modes import MODES as ONNX_MODES
from localai.errors import BadRequest
from localai.header_cache import stamp
from localai.local_model import LocalModel
from localai.model_folders import Format, folder_arch

_NOTICED_S = 10.0
"""Seconds that what is known of installed packages holds: to ask with every request would cost it milliseconds."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend by name: the package that it needs with its modules, and the formats that it opens.

    `threads` tells whether the number of threads can be chosen, `adapters` whether it applies adapters; `modes` are its
    `Load.mode`s, the most faithful first, of which those in `tried` are measured unasked. Those in `named` are for
    people who name them, and never measured or chosen otherwise. `usual` is the mode that is compared unasked.
    """

    name: str
    package: str
    modules: tuple[str, ...]
    install: str
    formats: tuple[Format, ...]
    modes: tuple[str, ...] = ("",)
    tried: tuple[str, ...] = ("",)
    named: tuple[str, ...] = ()
    usual: str = ""
    threads: bool = True
    adapters: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """`problem` says why `backend` cannot run the model, '' where it can; `hint` what to do about it."""

    backend: str
    problem: str = ""
    hint: str = ""


_ALL = (
    Backend(
        name="llama.cpp",
        package="llama-cpp-python",
        modules=("llama_cpp",),
        install="pip install llama-cpp-python==0.3.36",
        formats=("gguf",),
        adapters=True,
    ),
    Backend(
        name="onnx",
        package="onnxruntime",
        modules=("onnxruntime", "onnx"),
        install="pip install onnxruntime onnx",
        formats=("gguf", "onnx"),
        modes=tuple(mode for mode in ONNX_MODES if mode != "paged"),
        tried=("", "prefill8", "kv8"),
        named=("paged",),
    ),
    Backend(
        name="mlx",
        package="mlx",
        modules=("mlx",),
        install="pip install 'localai-daemon[mlx]'",
        formats=("gguf", "mlx"),
        modes=tuple(MLX_MODES),
        # On a GPU half precision is the fast one; elsewhere MLX multiplies packed weights very slowly.
        tried=("", "half") if sys.platform == "darwin" else ("", "host"),
        # Packed weights at ten tokens a second would take a benchmark minutes, and nobody would choose them.
        usual="" if sys.platform == "darwin" else "host",
        threads=False,
    ),
)
BACKENDS = tuple(known for known in _ALL if known.name in registry.NAMES)
NAMES = tuple(backend.name for backend in BACKENDS)
USUAL = tuple(f"{backend.name}:{backend.usual}" if backend.usual else backend.name for backend in BACKENDS)
"""Each backend in the way that is compared unasked."""
TENSOR_TYPES = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q6_K"})
"""What the backends that build a graph of their own can read of a GGUF file."""


def backend(name: str) -> Backend:
    """Raises BadRequest that names all for one that does not exist."""
    for known in BACKENDS:
        if known.name == name:
            return known
    raise BadRequest(f"no backend named {name!r}", f"choose one of: {', '.join(NAMES)}", param="backend")


def offers(model: LocalModel) -> tuple[Offer, ...]:
    """What each backend says to `model`, in the order of preference while nothing was measured."""
    return tuple(offer(model, known.name) for known in BACKENDS)


def usable(model: LocalModel) -> tuple[str, ...]:
    """The backends that can run `model` here."""
    return tuple(found.backend for found in offers(model) if not found.problem)


def offer(model: LocalModel, name: str) -> Offer:
    """Whether the backend `name` can run `model` here. Raises BadRequest for an unknown name."""
    known = backend(name)
    if model.base is not None:
        if not known.adapters:
            return Offer(name, f"{name} applies no adapters", "llama.cpp does (-B llama.cpp)")
        model = model.base
    if model.format not in known.formats:
        able = [other.name for other in BACKENDS if model.format in other.formats]
        hint = f"{able[0]} does (-B {able[0]})" if able else "take a GGUF file of this model"
        return Offer(name, f"{name} opens no {_label(model.format)}", hint)
    missing = [module for module in known.modules if not _present(module, _moment())]
    if missing:
        return Offer(name, f"{name} needs the package {known.package}, which is not installed", known.install)
    reason = _refused(model, name)
    return Offer(name, *reason) if reason else Offer(name)


def build_label(name: str) -> str:
    """Package and version of a backend's library: what measurements hold for."""
    package = next((known.package for known in BACKENDS if known.name == name), None)
    return "built in" if package is None else _version_label(package, _moment())


def _moment() -> int:
    return int(time.monotonic() // _NOTICED_S)


@lru_cache(maxsize=16)
def _version_label(package: str, _: int) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} (unknown version)"


def forget_packages() -> None:
    """Ask anew which packages are installed: some have come or gone."""
    _present.cache_clear()
    _version_label.cache_clear()


def _label(layout: str) -> str:
    return {"gguf": "GGUF files", "mlx": "MLX folders", "onnx": "ONNX exports"}.get(layout, layout)


@lru_cache(maxsize=64)
def _present(module: str, _: int) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _refused(model: LocalModel, name: str) -> tuple[str, str] | None:
    """Reason and hint where the backend lacks the architecture or the tensor types."""
    if name == "llama.cpp" or model.format == "onnx":
        return None
    try:
        if model.format == "gguf":
            return _gguf_refused(model.path, stamp(model.files))
        folder_arch(model.path)
    except BackendError as error:
        return f"{name}: {error.message}", error.hint
    except OSError as error:
        return f"{model.path.name} cannot be read: {error.strerror}", "check its permissions"
    return None


@lru_cache(maxsize=256)
def _gguf_refused(path: Path, _: str) -> tuple[str, str] | None:
    """For the backends that build a graph of their own; kept as long as the files stay the same."""
    try:
        headers = read_shards(path)
        arch_of_gguf(path.name, headers)
    except BackendError as error:
        hint = error.hint if not isinstance(error, ModelFileError) else "llama.cpp may still open it (-B llama.cpp)"
        return error.message, hint
    foreign = _foreign_types(headers)
    if foreign:
        what = f"{path.name}: it has {', '.join(foreign)} tensors, which only llama.cpp computes with"
        return what, "llama.cpp serves it (-B llama.cpp); or take a Q4_0, Q4_1 or Q8_0 file"
    return None


def _foreign_types(headers: Sequence[GgufHeader]) -> list[str]:
    return sorted({tensor.type for header in headers for tensor in header.tensors} - TENSOR_TYPES)
