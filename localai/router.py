"""Which model and engine serve a request, and why: names and settings are looked up here, `choosing` decides."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from localai.budget import MOST_CTX
from localai.choice import Choice
from localai.choosing import check_policy, decide
from localai.config import Config
from localai.errors import BadRequest, ModelBroken
from localai.library import Library
from localai.local_model import LocalModel
from localai.market import Market
from localai.messages import TurnRequest
from localai.offers import backend, offer, offers, usable
from localai.presets import Preset
from localai.workload import text_of, workload

AUTO = "auto"
_STARTER = "starter"
_ECHO = "echo:"
"""`echo:FILE` is the engine without weights, for tests of what surrounds an engine."""
_BRIEF = 16_384
"""Characters of a prompt that are compared with what engines hold in less time than a thread takes to start on it."""


async def route(request: TurnRequest, library: Library, config: Config, market: Market, saving: str = "") -> Choice:
    """As `routed`: at once for a short prompt to a model that was asked for before, else in a thread."""
    name = request.model if request.picked else _name(request.model, config)[0]
    known = name.startswith(_ECHO) or library.remembers(name, files=request.trusted)
    if known and len(text_of(request)) <= _BRIEF:
        return routed(request, library, config, market, saving)
    return await asyncio.to_thread(routed, request, library, config, market, saving)


def routed(request: TurnRequest, library: Library, config: Config, market: Market, saving: str = "") -> Choice:
    """Choose for `request`; `saving` is why the settings are thriftier than usual.

    Raises UnknownModel, NotFound, ModelBroken or BadRequest.
    """
    picked = request.picked
    name, why = (request.model, picked.reason) if picked else _name(request.model, config)
    if library.catalog.upstream_of(name) is not None:
        hint = "name it in the request: only then does a prompt leave this machine"
        raise BadRequest(f"{why}, and that is on another machine", hint, param="model")
    if request.fallback:
        why = f"{request.fallback}; {name} answers instead"
    why += f"; {saving}" if saving else ""
    # Strangers may use what is in the library, but not probe the disk for files.
    files = request.trusted
    model = _echo(name) if files and name.startswith(_ECHO) else library.resolve(name, files=files)
    if model.problem:
        raise ModelBroken(f"{model.id}: {model.problem}", "download or import the model again")
    preset, base = model.preset or Preset(), model.base or model
    n_ctx = request.n_ctx or _least_context(preset, base, config)
    sibling = model.id if model.base else ""
    if model.preset:
        model = base
        why += f"; it is {base.id} with settings of its own"
    elif model.base:
        why += f"; it is {base.id} with {len(model.adapters)} adapter{'s'[: len(model.adapters) > 1]}"
    if base.format == "echo":
        return Choice(base, "echo", n_ctx, why, adapters=model.adapters, sibling=sibling, preset=preset)
    asked = request.backend or config.backend
    # What an adapter changes is not found in the cache of the plain model.
    text = (sibling if model.adapters else "") + text_of(request)
    if asked == "auto":
        chosen, mode, reason = _chosen(request, model, config, market, text)
    else:
        chosen, mode = _fixed(asked, model)
        reason = "on the engine that was measured" if request.picked else f"{asked} was asked for"
    choice = Choice(base, chosen, n_ctx, f"{why}; {reason}", mode, model.adapters, sibling, preset=preset)
    market.note(choice, text)
    return replace(choice, rates=market.rates(choice))


def _least_context(preset: Preset, model: LocalModel, config: Config) -> int:
    """What a preset wants is a least context: what is served anyway covers it, and is not loaded anew for less."""
    trained = model.header.n_ctx_train if model.header else None
    usual = config.ctx or min(trained or MOST_CTX, MOST_CTX)
    return preset.n_ctx if preset.n_ctx and preset.n_ctx > usual else config.ctx


def means_auto(asked: str, config: Config) -> bool:
    """Whether this name, by alias or as the default, leaves the model to be chosen."""
    if (instead := _alias(asked, config)) is not None:
        return means_auto(instead, replace(config, model_aliases=()))
    return (config.default_model if asked in ("", "default") else asked) == AUTO


def default_model(config: Config) -> str:
    """The model that answers where none is chosen."""
    return _STARTER if config.default_model == AUTO else config.default_model


def meant(asked: str, config: Config) -> str:
    """The name of the model that `asked` stands for where a model itself is meant, not who answers."""
    return default_model(config) if asked in ("", "default") else asked


def spoken_of(asked: str, config: Config) -> str:
    """As `meant`, for a name that may be an alias too: who asks for a model's description takes it for the model's."""
    instead = _alias(asked, config)
    return meant(asked if instead is None else instead, config)


def _alias(asked: str, config: Config) -> str | None:
    """What the first alias that fits makes of a name; aliases lead to no other aliases."""
    pairs = (alias.partition("=") for alias in config.model_aliases)
    return next((instead for pattern, _, instead in pairs if fnmatchcase(asked, pattern)), None)


def _name(asked: str, config: Config) -> tuple[str, str]:
    if (instead := _alias(asked, config)) is not None:
        name, why = _name(instead, replace(config, model_aliases=()))
        return name, f"{asked} stands for {instead}: {why}"
    usual = default_model(config)
    if asked in ("", "default"):
        return usual, f"{usual} is the default model"
    if asked == AUTO:
        return usual, f"auto: {usual} is the default model"
    return asked, f"{asked} was asked for"


def _chosen(request: TurnRequest, model: LocalModel, config: Config, market: Market, text: str) -> tuple[str, str, str]:
    """Backend, mode and reason by policy."""
    policy = check_policy(request.policy or config.policy)
    options = market.options(model, text)
    if all(option.problem for option in options):
        # An answer that takes its time is better than none.
        options = [replace(option, problem="") if option.late else option for option in options]
    if all(option.problem for option in options):
        named = [f"{option}: {option.problem}" for option in options]
        named += [found.problem for found in offers(model) if found.problem]
        raise ModelBroken(
            f"no engine here runs {model.id} ({'; '.join(named)})", "`localai doctor` tells what is missing"
        )
    decision = decide(policy, options, workload(request, text))
    return decision.option.backend, decision.option.mode, decision.reason


def _fixed(asked: str, model: LocalModel) -> tuple[str, str]:
    """`NAME`, or `NAME:MODE` for another way of computing. Raises BadRequest with the reason and the alternative."""
    name, _, mode = asked.partition(":")
    modes = (*backend(name).modes, *backend(name).named)
    if mode not in modes:
        others = ", ".join(f"{name}:{known}" for known in modes if known) or "it has no others"
        raise BadRequest(f"{name} has no mode {mode!r}", f"leave it out, or: {others}", param="backend")
    found = offer(model, name)
    if found.problem:
        instead = ", ".join(usable(model)) or "none of the installed ones"
        raise BadRequest(
            f"{name} cannot run {model.id}: {found.problem}", f"{found.hint}; can run it: {instead}", param="backend"
        )
    return name, mode


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
