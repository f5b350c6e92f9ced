"""An SVG as a PNG, where the extra `png` is installed and a font that is known."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from localai.errors import BadRequest

_WIDTH = 1280
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts", "/Library/Fonts")
_FAMILIES = {
    "DejaVuSans.ttf": "DejaVu Sans",
    "LiberationSans-Regular.ttf": "Liberation Sans",
    "NotoSans-Regular.ttf": "Noto Sans",
    "Helvetica.ttc": "Helvetica",
    "Arial.ttf": "Arial",
}


def available() -> bool:
    """Without a font, a plot would come without its words."""
    return importlib.util.find_spec("resvg_py") is not None and bool(_family())


def drawn(svg: str) -> bytes:
    """The picture, 1280 pixels wide. Raises BadRequest where nothing is installed that draws it."""
    if not available():
        raise BadRequest(
            "nothing is installed that draws PNG", "pip install 'localai-daemon[png]', and a sans-serif font"
        )
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_WIDTH, sans_serif_family=_family()))


@cache
def _family() -> str:
    names = {path.name for folder in _FOLDERS for path in Path(folder).rglob("*.tt[cf]")}
    return next((family for file, family in _FAMILIES.items() if file in names), "")
