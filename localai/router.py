"""Which model and backend serve a request, and why. Pure: the request, what is installed and the settings in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import registry
from backends.contract import Adapter
from localai.config import Config
from localai.errors import BadRequest, ModelBroken
from localai.library import Library
from localai.local_model import LocalModel
from localai.messages import TurnRequest

_ECHO = "echo:"
"""`echo:FILE` is the engine without weights, for tests of what surrounds an engine."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What will serve. `n_ctx` 0 means as much as is sensible here; `reason` is one sentence for people.

    `model` is what is loaded; `adapters` are applied to it for this request alone, and make it `sibling`.
    """

    model: LocalModel
    backend: str
    n_ctx: int
    reason: str
    adapters: tuple[Adapter, ...] = ()
    sibling: str = ""

    @property
    def id(self) -> str:
        """The name that the answer carries: the sibling's, or the model's own."""
        return self.sibling or self.model.id

    @property
    def sampling(self) -> dict[str, Any]:
        """What the catalogue recommends for this model; {} where it is silent."""
        return {str(k): v for k, v in self.model.spec.sampling.items()} if self.model.spec else {}

    @property
    def system(self) -> str | None:
        """The system prompt that the catalogue recommends; None leaves it to the model's template."""
        return self.model.spec.system if self.model.spec else None


def route(request: TurnRequest, library: Library, config: Config) -> Choice:
    """Choose for `request`. Raises UnknownModel, NotFound, ModelBroken or BadRequest."""
    name, why = _name(request.model, config)
    # Strangers may use what is in the library, but not probe the disk for files.
    files = request.trusted
    model = _echo(name) if files and name.startswith(_ECHO) else library.resolve(name, files=files)
    if model.problem:
        raise ModelBroken(f"{model.id}: {model.problem}", "download or import the model again")
    base = model.base or model
    backend = _backend(request.backend or config.backend, base)
    runs = "" if backend == "echo" else f"; {backend} is the engine for GGUF files on this device"
    over = f"; it is {base.id} with {len(model.adapters)} adapter{'s'[: len(model.adapters) > 1]}" if model.base else ""
    sibling = model.id if model.base else ""
    return Choice(base, backend, request.n_ctx or config.ctx, why + over + runs, model.adapters, sibling)


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
