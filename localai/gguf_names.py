"""What the names of GGUF files tell: quantisation, part of a split model, or a projector that is no model.

Names enter, choices leave; pure. The conventions are those of llama.cpp's converters and of the hub's repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

PREFERENCE = ("Q4_K_M", "Q4_0", "MXFP4", "Q4_K_S", "Q4_1", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F16", "F32")

_SHARD = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?:^|[-._])(?P<label>(?:UD-)?(?:(?:I?Q\d|TQ\d)_[A-Z0-9]+(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?=$|[-.])",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix|mtp)([-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufGroup:
    """One model of a folder or repository: its files in order, and the label of its quantisation ('' unknown)."""

    files: tuple[str, ...]
    quant: str

    @property
    def stem(self) -> str:
        """The file name without folder, part number and ending."""
        name = PurePosixPath(self.files[0]).name
        match = _SHARD.fullmatch(name)
        return match["stem"] if match else name[: -len(".gguf")]

    @property
    def complete(self) -> bool:
        match = _SHARD.fullmatch(PurePosixPath(self.files[0]).name)
        return match is None or (int(match["no"]) == 1 and len(self.files) == int(match["count"]))


def groups(names: Iterable[str]) -> list[GgufGroup]:
    """Sort file names (with folders, `/` between them) into models; projectors and importance matrices are left out."""
    members: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() != ".gguf" or _NO_MODEL.search(path.name):
            continue
        match = _SHARD.fullmatch(path.name)
        key = (f"{path.parent}/{match['stem']}", match["count"]) if match else (name, "")
        members.setdefault(key, []).append(name)
    return [GgufGroup(tuple(files), quant_of(files[0])) for files in members.values()]


def quant_of(name: str) -> str:
    """The quantisation that a file name, or else its folder, claims; '' where neither does."""
    path = PurePosixPath(name)
    stem = _SHARD.sub(r"\g<stem>", path.name).removesuffix(".gguf")
    for part in (stem, *reversed(path.parent.parts)):
        found = [match["label"] for match in _QUANT.finditer(part)]
        if found:
            return found[-1].upper()
    return ""


def matching(candidates: Sequence[GgufGroup], wanted: str) -> list[GgufGroup]:
    """Those whose quantisation, file name or stem is `wanted`, in any case."""
    lowered = wanted.lower()
    named = [g for g in candidates if lowered in (g.files[0].lower(), PurePosixPath(g.files[0]).name.lower())]
    return named or [group for group in candidates if lowered in (group.quant.lower(), group.stem.lower())]


def by_preference(candidates: Iterable[GgufGroup]) -> list[GgufGroup]:
    """Best first: the usual compromise between size and quality, then the rest by name."""
    rank = {quant: place for place, quant in enumerate(PREFERENCE)}
    return sorted(candidates, key=lambda group: (rank.get(group.quant, len(rank)), group.files[0]))
