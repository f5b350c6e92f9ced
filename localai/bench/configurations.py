"""What is compared: models x quantisations x backends x thread counts. Names enter, checked Configurations leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from localai.calibration_store import identity
from localai.errors import BadRequest, NotFound
from localai.library import Library
from localai.local_model import LocalModel
from localai.offers import USUAL, build_label, offer


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """One way of answering. `threads` 0 is what the daemon is set to; `digest` names the weights.

    `spec` is the catalogue's id of the model, '' for one that is in no catalogue.
    """

    model: str
    quant: str
    backend: str
    threads: int = 0
    digest: str = ""
    build: str = ""
    architecture: str = ""
    parameters: int = 0
    size_bytes: int = 0
    spec: str = ""

    @property
    def key(self) -> str:
        """For people, and to tell it from the others of one run."""
        return f"{self.model} {self.backend}" + (f" t{self.threads}" if self.threads else "")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What will run, and what was asked for and cannot, each with its reason.

    `names`: how the daemon is asked for the model of a configuration, by key: a file by its path, which reports lack.
    """

    configurations: tuple[Configuration, ...]
    left_out: tuple[str, ...]
    names: dict[str, str]


def choose(
    library: Library, models: Sequence[str], quants: Sequence[str], backends: Sequence[str], threads: Sequence[int]
) -> Chosen:
    """All combinations. Raises UnknownModel or NotFound for a model that is not here, BadRequest for a bad backend.

    With `quants`, each of the models is looked up as MODEL:QUANT; without, as it is named.
    """
    names = [f"{model}:{quant}" for model in models for quant in quants] if quants else list(models)
    found: dict[str, Configuration] = {}
    asked: dict[str, str] = {}
    left_out: list[str] = []
    for name in names:
        local = _resolved(library, name, quants)
        header = local.header
        for backend in backends or USUAL:
            offered = offer(local, backend.partition(":")[0])
            if offered.problem:
                left_out.append(f"{local.id} on {backend}: {offered.problem}")
                continue
            for count in threads or (0,):
                made = Configuration(
                    model=local.id,
                    quant=header.quant if header else "",
                    backend=backend,
                    threads=count,
                    digest=local.digest or identity(local),
                    build=build_label(offered.backend),
                    architecture=header.architecture if header else "",
                    parameters=header.parameters if header else 0,
                    size_bytes=local.size_bytes,
                    spec=local.spec.id if local.spec else "",
                )
                found[made.key], asked[made.key] = made, name
    if not found:
        raise BadRequest("there is nothing to compare", "; ".join(left_out) or "name a model with -m")
    return Chosen(tuple(found.values()), tuple(left_out), asked)


def _resolved(library: Library, name: str, quants: Sequence[str]) -> LocalModel:
    """Where the model is here and its quantisation is not, the hint makes it."""
    try:
        return library.resolve(name)
    except NotFound as error:
        model, _, quant = name.rpartition(":")
        if not quants:
            raise
        library.resolve(model)
        raise NotFound(error.message, f"`localai models quantize {model} {quant}` makes it") from error
