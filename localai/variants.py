"""Which quantisations of a model there are, here or on a hub, and what their headers say: a name in, variants out.

For a model on the hub one header is read; its sister quantisations, whose metadata is the same, are sized by the hub's
listing. Blocking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backends.errors import ModelFileError
from backends.gguf import read_shards
from backends.gguf_header import GgufHeader
from localai.catalog import Catalog, ModelSpec
from localai.errors import BadRequest, DownloadFailed, NotFound, from_backend
from localai.gguf_names import GgufGroup, by_preference, groups, matching, quant_of
from localai.library import Library
from localai.local_model import LocalModel
from localai.planner import Variant
from localai.remote_header import RemoteHeaders
from localai.shapes import resized, shape_of

if TYPE_CHECKING:
    from localai.hub import Hub, Repository

_HF = re.compile(r"hf:(?P<repo>[^:/]+/[^:/]+)(?::(?P<quant>.+))?")


@dataclass(frozen=True, slots=True)
class Variants:
    """The quantisations of one model; `here` tells whether its file is on this machine, `id` names it for people."""

    id: str
    here: bool
    found: tuple[Variant, ...]


class Finder:
    """Looks models up in `library`, then on the hub; `endpoint` and `token` default to huggingface_hub's own."""

    def __init__(self, library: Library, *, endpoint: str | None = None, token: str | None = None) -> None:
        self._library = library
        self._endpoint = endpoint
        self._token = token

    @property
    def catalog(self) -> Catalog:
        return self._library.catalog

    def find(self, name: str) -> Variants:
        """All variants that `name` may mean: an installed model, a catalogue id or `hf:owner/repo`, with `:quant`.

        Raises UnknownModel, NotFound, ModelBroken, Unauthorized, BadRequest, DownloadFailed.
        """
        match = _HF.fullmatch(name)
        base, _, quant = name.partition(":")
        spec = None if match else self._library.catalog.get(base)
        # A repository named without a quantisation is asked for all of them, unless there is nobody to ask.
        if match is None or match["quant"] or self._hub.offline:
            try:
                return _local(self._library.resolve(name))
            except NotFound:
                if match is None and (spec is None or spec.gguf is None):
                    raise
        if match is not None:
            return self._remote(match["repo"], "main", match["quant"] or "", None)
        assert spec is not None
        assert spec.gguf is not None
        return self._remote(spec.gguf.repo, spec.gguf.revision, quant, spec)

    def _remote(self, repo_name: str, revision: str, quant: str, spec: ModelSpec | None) -> Variants:
        repo = self._hub.repository(repo_name, revision)
        chosen = _chosen(repo, quant, spec)
        headers = self._headers(repo, chosen)
        first = _variant(chosen.quant or headers[0].quant, headers)
        sisters = () if quant else _sisters(repo, chosen, first, headers)
        return Variants(spec.id if spec else f"hf:{repo.id}", False, (first, *sisters))

    def _headers(self, repo: Repository, group: GgufGroup) -> tuple[GgufHeader, ...]:
        if not group.complete:
            raise DownloadFailed(f"{repo.id} lacks parts of {group.stem}", "choose another quantisation")
        listed = {file.name: file for file in repo.files}
        reader = RemoteHeaders(self._hub, self._library.home / "cache" / "remote-headers")
        return reader.read(repo, [listed[name] for name in group.files])

    @cached_property
    def _hub(self) -> Hub:
        from localai.hub import Hub

        return Hub(self._endpoint, self._token)


def _local(model: LocalModel) -> Variants:
    try:
        headers = read_shards(model.path)
    except ModelFileError as error:
        raise from_backend(error) from error
    return Variants(model.id, True, (_variant(quant_of(model.path.name) or headers[0].quant, headers),))


def _variant(quant: str, headers: Sequence[GgufHeader]) -> Variant:
    """Raises ModelBroken where the header lacks what a plan needs, BadRequest where the file is no model."""
    if headers[0].kind != "model":
        raise BadRequest(f"this file is no model but {headers[0].kind}", "name the model itself", param="model")
    try:
        return Variant(quant, shape_of(headers), headers[0])
    except ModelFileError as error:
        raise from_backend(error) from error


def _chosen(repo: Repository, quant: str, spec: ModelSpec | None) -> GgufGroup:
    """The group whose header is read: the quantisation asked for, else the catalogue's, else the usual one."""
    offered = groups(file.name for file in repo.files)
    if not offered:
        raise NotFound(f"{repo.id} has no GGUF files", "look for a repository whose name ends in -GGUF", param="model")
    wanted = quant or (spec.default_quant if spec else "") or ""
    fitting = matching(offered, wanted) if wanted else []
    if quant and not fitting:
        labels = ", ".join(sorted({group.quant or group.stem for group in offered}))
        raise NotFound(f"{repo.id} has no {quant}", f"it has {labels}", param="model")
    return (fitting or by_preference(offered))[0]


def _sisters(repo: Repository, chosen: GgufGroup, first: Variant, headers: Sequence[GgufHeader]) -> Iterator[Variant]:
    """The same model in the repository's other quantisations, as far as the hub gives sizes."""
    sizes = {file.name: file.bytes for file in repo.files}
    seen = {chosen.quant}
    for group in groups(file.name for file in repo.files):
        parts = [sizes[name] for name in group.files]
        known = [part for part in parts if part is not None]
        if group.quant in seen or not group.complete or len(known) < len(parts) or _base(group) != _base(chosen):
            continue
        weights = sum(known) - headers[0].data_offset
        if weights > 0:
            seen.add(group.quant)
            yield Variant(group.quant, resized(first.shape, group.quant, weights), first.header, estimated=True)


def _base(group: GgufGroup) -> str:
    """The model's name in the file's: a repository may hold several sizes of one family."""
    return group.stem.upper().replace(group.quant, "").strip("-._") if group.quant else group.stem.upper()
