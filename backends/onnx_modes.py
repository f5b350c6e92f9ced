"""How a graph that localai builds computes: the settings of each mode, and a line that tells people about it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from backends.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Mode:
    """`accuracy` is MatMulNBits' level: 4 turns activations into 8-bit blocks, 1 keeps them in float32.

    `head_bits` requantises the output matrix, 0 keeps it as in the file; `offsets` keeps those of Q4_1 blocks.
    """

    text: str
    accuracy: int = 4
    head_bits: int = 0
    offsets: bool = True


MODES = MappingProxyType(
    {
        "": Mode("weights as in the file, activations in 8-bit blocks as llama.cpp has them"),
        "float": Mode("weights as in the file, activations in float32: slower, for comparisons", accuracy=1),
        "head4": Mode("as the default, with the output matrix in 4 bits: faster decode, less faithful", head_bits=4),
    }
)


def mode_named(name: str) -> Mode:
    """Raises UnsupportedModel with the names that there are."""
    if name not in MODES:
        known = ", ".join(repr(mode) for mode in MODES)
        raise UnsupportedModel(f"the onnx backend has no mode {name!r}", f"choose one of {known}")
    return MODES[name]
