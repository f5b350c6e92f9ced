"""How the MLX engine computes: the settings of each mode, and a line that tells people about it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from backends.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Mode:
    """`half` computes and caches in 16 bits; `host` multiplies with float32 copies of the weights through numpy."""

    text: str
    half: bool = False
    host: bool = False


MODES = MappingProxyType(
    {
        "": Mode("weights as in the file, float32 activations and cache"),
        "half": Mode(
            "weights as in the file, float16 activations and cache: for Apple GPUs; very slow on a CPU", half=True
        ),
        "host": Mode(
            "float32 copies of the weights, multiplied by numpy: far faster where MLX brings the reference BLAS, "
            "as on a Linux CPU, at 4 bytes a weight",
            host=True,
        ),
    }
)


def mode_named(name: str) -> Mode:
    """Raises UnsupportedModel with the names that there are."""
    if name not in MODES:
        known = ", ".join(repr(mode) for mode in MODES)
        raise UnsupportedModel(f"the mlx backend has no mode {name!r}", f"choose one of {known}")
    return MODES[name]
