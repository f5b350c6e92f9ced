"""The themes of the chat beside Textual's own."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

CONTRAST = Theme(
    name="contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ff66",
    warning="#ffcc00",
    error="#ff6666",
    success="#00ff66",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#333333",
)
_TERMINAL = BUILTIN_THEMES["ansi-dark"]
_REVERSED = ("block-cursor", "input-selection", "screen-selection")
PLAIN = replace(
    _TERMINAL,
    name="plain",
    primary="ansi_default",
    secondary="ansi_default",
    warning="ansi_default",
    error="ansi_default",
    success="ansi_default",
    accent="ansi_default",
    variables={
        **_TERMINAL.variables,
        **{f"{name}-background": "ansi_white" for name in _REVERSED},
        **{f"{name}-foreground": "ansi_black" for name in _REVERSED},
        "footer-key-foreground": "ansi_default",
    },
)
THEMES = (CONTRAST, PLAIN)
ORDER = ("textual-dark", "textual-light", "contrast", "plain")
"""Through which the key for themes goes: dark, light, high contrast, no colour."""
THEME_NAMES = tuple(dict.fromkeys((*ORDER, *BUILTIN_THEMES)))
