"""Names such as `BASE+ADAPTER@0.5`: one model with LoRA adapters over it, put together without storing anything.

A name and a way to look its parts up enter; a `LocalModel` that shares its base's file leaves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from backends.contract import Adapter
from backends.errors import BackendError
from backends.lora import MOST_AT_ONCE, refuse_bad_choice
from localai.errors import BadRequest, NotFound, from_backend
from localai.header_cache import stamp
from localai.local_model import LocalModel


def combined(name: str, known: Callable[[str], LocalModel], *, files: bool) -> LocalModel:
    """The model that `name` describes: a base or sibling, then adapters, each a sibling's id or, with `files`, a path.

    An adapter's own scale is multiplied by what follows its `@`. Raises what `known` raises, NotFound and BadRequest.
    """
    first, *parts = name.split("+")
    if len(parts) > MOST_AT_ONCE:
        raise BadRequest(f"{len(parts)} adapters at once", f"name at most {MOST_AT_ONCE}", param="model")
    named = known(first)
    base = named.base or named
    adapters, paths, labels = list(named.adapters), list(named.files if named.base else ()), []
    for part in parts:
        more, label = _adapters(part, known, files=files)
        adapters += more
        paths += [Path(adapter.path) for adapter in more]
        labels.append(label)
    try:
        refuse_bad_choice(adapters)
    except BackendError as error:
        raise from_backend(error) from error
    return replace(
        base,
        id="+".join((named.id, *labels)),
        path=paths[0],
        files=tuple(paths),
        origin="file",
        size_bytes=sum(path.stat().st_size for path in paths),
        digest=None,
        spec=None,
        repo=None,
        base=base,
        adapters=tuple(adapters),
    )


def _adapters(part: str, known: Callable[[str], LocalModel], *, files: bool) -> tuple[list[Adapter], str]:
    """The adapters that one part of a name means, and how to show it: without the folders of a path."""
    name, mark, written = part.partition("@")
    scale = _number(written, part) if mark else 1.0
    if files and name.lower().endswith(".gguf"):
        path = Path(os.path.expanduser(name))
        try:
            return [Adapter(str(path), scale, stamp([path]))], path.stem + mark + written
        except (OSError, ValueError) as error:
            raise NotFound(f"there is no adapter {name!r}", "check the path", param="model") from error
    model = known(name)
    if model.base is None:
        raise BadRequest(
            f"{model.id} is a model, not an adapter",
            "`localai models import FILE --base MODEL` takes an adapter in",
            param="model",
        )
    if model.problem is not None:
        raise BadRequest(f"{model.id} cannot be used: {model.problem}", "`localai models list`", param="model")
    scaled = [msgspec.structs.replace(adapter, scale=adapter.scale * scale) for adapter in model.adapters]
    return scaled, model.id + mark + written


def _number(written: str, part: str) -> float:
    try:
        return float(written)
    except ValueError:
        raise BadRequest(f"{part!r} has no number behind its @", "write it as ADAPTER@0.5", param="model") from None
