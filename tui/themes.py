"""The themes of the chat beside Textual's own."""

from __future__ import annotations

from textual.theme import Theme

THEMES = (
    Theme(
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
    ),
    Theme(
        name="plain",
        primary="ansi_default",
        secondary="ansi_default",
        accent="ansi_default",
        warning="ansi_default",
        error="ansi_default",
        success="ansi_default",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        ansi=True,
    ),
)
ORDER = ("textual-dark", "textual-light", "contrast", "plain")
"""Through which the key for themes goes: dark, light, high contrast, no colour."""
