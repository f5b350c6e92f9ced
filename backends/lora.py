"""Judges LoRA adapters before an engine sees them: the header of a GGUF file that nobody vouches for, and its base's.

A `Lora` leaves, or an error that names the file, the reason and the alternative. Reads no tensor values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.contract import Adapter
from backends.errors import InvalidJob, ModelFileError, UnsupportedModel
from backends.gguf import read_header
from backends.gguf_header import GgufHeader, TensorInfo

ADAPTERS_KEPT = 8
"""Adapters that an engine keeps loaded, the longest unused going first."""
MOST_AT_ONCE = 4
"""Adapters of one job."""
MOST_SCALE = 100.0

_TYPES = frozenset({"F32", "F16", "BF16", "Q8_0"})
_RETRY = "convert the adapter again, with convert_lora_to_gguf.py of llama.cpp"
_MERGE = "use it with the model that it was made for, or merge it into that model"


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of what an adapter adds to the base's tensor `target`."""

    target: str
    a: TensorInfo
    b: TensorInfo


@dataclass(frozen=True, slots=True)
class Lora:
    """A checked adapter. `made_for` is the base's name as the file tells it, '' where it does not."""

    name: str
    architecture: str
    made_for: str
    alpha: float
    size_bytes: int
    pairs: tuple[Pair, ...]


def read_lora(path: Path) -> Lora:
    """Read and check an adapter's header. Raises ModelFileError, or UnsupportedModel for what no engine here applies.

    llama.cpp aborts on metadata of an unexpected type, so types are checked as strictly as values.
    """
    try:
        header = read_header(path)
        _refuse_other_kinds(header, path.name)
        return Lora(
            name=_printable(header.name),
            architecture=header.architecture,
            made_for=_printable(header.text("general.base_model.0.name") or ""),
            alpha=_alpha(header, path.name),
            size_bytes=header.weight_bytes,
            pairs=_pairs(header, path.name),
        )
    except ModelFileError as error:
        named = error.message if path.name in error.message else f"{path.name}: {error.message}"
        raise ModelFileError(named, error.hint) from error


def read_fitting(path: Path, base: Sequence[GgufHeader], base_name: str) -> Lora:
    """Read the adapter at `path` and refuse it unless it fits `base`. Raises BackendError."""
    lora = read_lora(path)
    refuse_foreign(lora, path.name, base, base_name)
    return lora


def refuse_foreign(lora: Lora, file: str, base: Sequence[GgufHeader], base_name: str) -> None:
    """Raise UnsupportedModel where `lora`, from `file`, does not fit the model whose parts' headers are `base`."""
    made_for = f"; it says that it was made for {lora.made_for}" if lora.made_for else ""
    if lora.architecture != base[0].architecture:
        reason = f"it is for {_printable(lora.architecture)} models, and that is a {base[0].architecture} model"
        raise UnsupportedModel(f"{file} does not fit {base_name}: {reason}{made_for}", _MERGE)
    tensors = {tensor.name: tensor for header in base for tensor in header.tensors}
    for pair in lora.pairs:
        reason = _misfit(pair, tensors)
        if reason:
            raise UnsupportedModel(f"{file} does not fit {base_name}: {reason}{made_for}", _MERGE)


def refuse_bad_choice(adapters: Sequence[Adapter]) -> None:
    """Raise InvalidJob for more adapters than one job may have, one named twice, or a scale that is none."""
    if len(adapters) > MOST_AT_ONCE:
        raise InvalidJob(f"{len(adapters)} adapters at once", f"name at most {MOST_AT_ONCE}")
    if len({adapter.path for adapter in adapters}) < len(adapters):
        raise InvalidJob("an adapter is named twice", "name it once, with a larger scale")
    for adapter in adapters:
        if not math.isfinite(adapter.scale) or not 0 < abs(adapter.scale) <= MOST_SCALE:
            raise InvalidJob(f"an adapter's scale is {adapter.scale}", f"use a number up to {MOST_SCALE:g}, but not 0")


def _refuse_other_kinds(header: GgufHeader, file: str) -> None:
    if header.kind != "adapter":
        raise ModelFileError(f"{file} is no adapter but a {_printable(header.kind)}", "give a LoRA adapter in GGUF")
    kind = header.text("adapter.type")
    if kind != "lora":
        raise UnsupportedModel(f"{file} is an adapter of type {_printable(str(kind))}, not lora", _MERGE)
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise UnsupportedModel(f"{file} is an activated LoRA, which switches itself on by tokens", _MERGE)


def _alpha(header: GgufHeader, file: str) -> float:
    key = "adapter.lora.alpha"
    value = header.metadata.get(key, 0.0)
    if header.types.get(key, "float32") != "float32" or not isinstance(value, float) or not math.isfinite(value):
        raise ModelFileError(f"{file}: {key} should be a 32-bit number", _RETRY)
    return value


def _pairs(header: GgufHeader, file: str) -> tuple[Pair, ...]:
    sides: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        target, _, side = tensor.name.rpartition(".lora_")
        if side not in ("a", "b") or not target or ".lora_" in target:
            shown = _printable(tensor.name)
            raise UnsupportedModel(f"{file} replaces {shown} itself, which only low-rank pairs could adapt", _MERGE)
        if tensor.type not in _TYPES:
            raise UnsupportedModel(f"{file} stores {_printable(tensor.name)} as {tensor.type}", _RETRY)
        sides.setdefault(target, {})[side] = tensor
    lone = next((target for target, both in sides.items() if len(both) < 2), None)
    if lone is not None:
        raise ModelFileError(f"{file}: {_printable(lone)} has one half of its pair", _RETRY)
    if not sides:
        raise ModelFileError(f"{file} holds no tensors", _RETRY)
    return tuple(Pair(target, both["a"], both["b"]) for target, both in sides.items())


def _misfit(pair: Pair, tensors: dict[str, TensorInfo]) -> str:
    """Why a pair cannot be added to the base, or ''."""
    name = _printable(pair.target)
    target = tensors.get(pair.target)
    if target is None:
        return f"that has no tensor {name}"
    if len(target.shape) not in (2, 3) or not target.name.endswith(".weight"):
        return f"{name} is no matrix, and no engine here adapts it"
    a, b, shape = pair.a.shape, pair.b.shape, target.shape
    if target.name == "token_embd.weight":
        if "output.weight" not in tensors:
            return "it adapts the token embeddings, which that model also uses as its output matrix"
        # The converter keeps the embedding's factors the other way round, because rows of them are looked up.
        fits = len(a) == len(b) == 2 and (a[1], b[1]) == (shape[1], shape[0]) and a[0] == b[0]
    else:
        # A matrix of (inputs, outputs) takes A of (inputs, rank) and B of (rank, outputs); experts add a third axis.
        fits = len(a) == len(b) == len(shape) and a[0] == shape[0] and b[1:] == shape[1:] and a[2:] == shape[2:]
        fits = fits and a[1] == b[0]
    if not fits or 0 in a or 0 in b:
        return f"its {name} has the shapes {_sides(a)} and {_sides(b)}, the model's is {_sides(shape)}"
    return ""


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:100]
