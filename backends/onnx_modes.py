"""How graphs that localai builds compute: the settings of each mode, and a line that tells people about it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from backends.errors import UnsupportedModel

Offsets = Literal["apart", "columns", "zeros"]


@dataclass(frozen=True, slots=True)
class Form:
    """How one graph holds and multiplies the weights.

    `accuracy` is MatMulNBits' level: 4 turns activations into 8-bit blocks, 1 keeps them in float32. `offsets` says how
    those of Q4_1 blocks are computed: in a float32 product of their own (`apart`), as further columns of the matrix in
    two times 4 bits (`columns`), or by zero points of 8-bit weights (`zeros`, which turns all 4-bit weights into 8).
    """

    offsets: Offsets = "columns"
    accuracy: int = 4

    @property
    def name(self) -> str:
        return f"{self.offsets}{self.accuracy}"


@dataclass(frozen=True, slots=True)
class Mode:
    """`form` is the graph for all steps, or for short ones where prompts have a graph of their own (`prefill`); with
    `kv8` short steps have its twin with keys and values in 8 bits."""

    text: str
    form: Form
    prefill: Form | None = None
    kv8: bool = False


MODES = MappingProxyType(
    {
        "": Mode("4-bit weights as in the file, offsets of Q4_1 blocks to 8 bits, activations in 8-bit blocks", Form()),
        "prefill8": Mode(
            "as the default, and prompts with a copy of the weights in 8 bits: faster prefill, three times the memory",
            Form(),
            Form("zeros"),
        ),
        "kv8": Mode(
            "as the default, with keys and values in 8 bits, one scale per channel: faster decode behind long prompts",
            Form(),
            kv8=True,
        ),
        "exact": Mode("as the default, with the offsets of Q4_1 blocks as in the file: slower", Form("apart")),
        "paged": Mode(
            "as the default, with keys and values on the SSD beyond a budget of RAM: one long conversation at a time",
            Form(),
        ),
        "float": Mode("as exact, with activations in float32: much slower, for comparisons", Form("apart", 1)),
    }
)


def mode_named(name: str) -> Mode:
    """Raises UnsupportedModel with the names that there are."""
    if name not in MODES:
        known = ", ".join(repr(mode) for mode in MODES)
        raise UnsupportedModel(f"the onnx backend has no mode {name!r}", f"choose one of {known}")
    return MODES[name]
