"""`chat.toml` in the daemon's home: a theme, other keys, what is remembered. A path enters, settings leave."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localai.errors import ConfigError
from tui.remembering import MODES, Mode

_HINT = 'write theme = "NAME", memories = "ask", "auto" or "off" and, under [keys], NAME = "KEY", as in again = "f9"'


@dataclass(frozen=True, slots=True)
class Settings:
    """`keys` maps ids of bindings to keys; `memories` is what happens to what a person says about themselves."""

    theme: str = ""
    memories: Mode = "ask"
    keys: Mapping[str, str] = field(default_factory=dict)


def settings_of(path: Path) -> Settings:
    """What the file says; as usual where there is none. Raises ConfigError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", _HINT) from error
    theme, keys, memories = content.pop("theme", ""), content.pop("keys", {}), content.pop("memories", "ask")
    if memories not in MODES:
        raise ConfigError(f"{path.name}: memories is {memories!r}", _HINT)
    if content or not isinstance(theme, str) or not isinstance(keys, dict):
        raise ConfigError(f"{path.name}: a setting is unknown or of a wrong type", _HINT)
    if not all(isinstance(key, str) for key in keys.values()):
        raise ConfigError(f"{path.name}: a key is no text", _HINT)
    return Settings(theme, memories, keys)
