"""`chat.toml` in the daemon's home: a theme, other keys, what is remembered. A path enters, settings leave."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tui.remembering import MODES, Mode
from tui.themes import ORDER, THEME_NAMES

_HINT = 'Write theme = "NAME", memories = "ask", "auto" or "off" and, under [keys], NAME = "KEY", as in again = "f9".'


@dataclass(frozen=True, slots=True)
class Settings:
    """`keys` maps ids of bindings to keys; `memories` is what happens to what a person says about themselves.

    `mistakes` tells what of the file was not understood, and therefore is as usual; "" where all was.
    """

    theme: str = ""
    memories: Mode = "ask"
    keys: Mapping[str, str] = field(default_factory=dict)
    mistakes: str = ""


def settings_of(path: Path, ids: Collection[str]) -> Settings:
    """What the file says; as usual where there is none. `ids` are those of the bindings."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        return Settings(mistakes=_told(path, [f"it cannot be read: {error}"]))
    theme, keys, memories = content.pop("theme", ""), content.pop("keys", {}), content.pop("memories", "ask")
    wrong = [f"there is no setting {name!r}" for name in content]
    if theme and theme not in THEME_NAMES:
        wrong.append(f"there is no theme {theme!r}; there are {', '.join(ORDER)} and Textual's own")
        theme = ""
    if memories not in MODES:
        wrong.append(f"memories is {memories!r}, and may be {', '.join(MODES)}")
        memories = "ask"
    kept = _keys(keys, ids, wrong)
    return Settings(theme, memories, kept, _told(path, wrong) if wrong else "")


def _keys(keys: Any, ids: Collection[str], wrong: list[str]) -> dict[str, str]:
    """Those that mean something; what is the matter with the others is added to `wrong`."""
    if not isinstance(keys, dict):
        wrong.append("keys is no table")
        return {}
    kept: dict[str, str] = {}
    for name, key in keys.items():
        if name not in ids:
            near = difflib.get_close_matches(name, ids, n=1)
            meant = f"; is {near[0]!r} meant?" if near else "; F1 names them in brackets"
            wrong.append(f"there is no action {name!r} under [keys]{meant}")
        elif not isinstance(key, str) or not key.strip():
            wrong.append(f"the key of {name!r} is no text")
        elif key in kept.values():
            wrong.append(f"{key!r} is given to two actions under [keys], the second is {name!r}")
        else:
            kept[name] = key
    return kept


def _told(path: Path, wrong: list[str]) -> str:
    return f"{path.name}: {'; '.join(wrong)}. {_HINT}"
