"""Which model and backend serve a request, and why. Pure: the request, what is installed and the settings in."""

from __future__ import annotations

from pathlib import Path

from backends import registry
from localai.choice import Choice
from localai.config import Config
from localai.errors import BadRequest, ModelBroken
from localai.library import Library, LocalModel
from localai.messages import TurnRequest

_ECHO = "echo:"
"""`echo:FILE` is the engine without weights, for tests of what surrounds an engine."""


def route(request: TurnRequest, library: Library, config: Config) -> Choice:
    """Choose for `request`. Raises UnknownModel, NotFound, ModelBroken or BadRequest."""
    name, why = _name(request.model, config)
    # Strangers may use what is in the library, but not probe the disk for files.
    files = request.trusted
    model = _echo(name) if files and name.startswith(_ECHO) else library.resolve(name, files=files)
    if model.problem:
        raise ModelBroken(f"{model.id}: {model.problem}", "download or import the model again")
    backend = _backend(request.backend or config.backend, model)
    runs = "" if backend == "echo" else f"; {backend} is the engine for GGUF files on this device"
    return Choice(model, backend, request.n_ctx or config.ctx, why + runs)


def _name(asked: str, config: Config) -> tuple[str, str]:
    if asked in ("", "default"):
        return config.default_model, f"{config.default_model} is the default model"
    if asked == "auto":
        return config.default_model, f"auto: {config.default_model} is the default model, and no other was measured"
    return asked, f"{asked} was asked for"


def _backend(asked: str, model: LocalModel) -> str:
    if model.format == "echo":
        return "echo"
    if asked == "auto":
        return "llama.cpp"
    if asked not in registry.NAMES:
        raise BadRequest(f"no backend named {asked!r}", f"choose one of: {', '.join(registry.NAMES)}", param="backend")
    return asked


def _echo(name: str) -> LocalModel:
    path = Path(name.removeprefix(_ECHO))
    return LocalModel(
        id=_ECHO + path.name,
        path=path,
        files=(path,),
        origin="file",
        size_bytes=0,
        digest=None,
        spec=None,
        repo=None,
        header=None,
        problem=None,
        format="echo",
    )
