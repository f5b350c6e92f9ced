"""An SVG as a PNG, where the extra `png` is installed."""

from __future__ import annotations

import importlib.util

from localai.errors import BadRequest

_WIDTH = 1280


def available() -> bool:
    return importlib.util.find_spec("resvg_py") is not None


def drawn(svg: str) -> bytes:
    """The picture, 1280 pixels wide. Raises BadRequest where nothing is installed that draws it."""
    if not available():
        raise BadRequest(
            "nothing is installed that draws PNG", "pip install 'localai-daemon[png]'; the SVG says the same"
        )
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_WIDTH))
