"""The colours of the transcript, made of a theme: styles for Rich leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from rich.theme import Theme
from textual.color import Color


@dataclass(frozen=True, slots=True)
class Palette:
    """`code` names a Pygments style, "" for code without colours."""

    text: Style
    muted: Style
    accent: Style
    error: Style
    question: Style
    cursor: Style
    fence: Style
    code: str

    def markdown(self) -> Theme:
        """Rich's names for the parts of Markdown."""
        strong = Style(bold=True)
        return Theme(
            {
                "markdown.code": self.accent,
                "markdown.h1": self.accent + Style(bold=True, underline=True),
                **{f"markdown.h{n}": self.accent + strong for n in range(2, 7)},
                "markdown.item.bullet": self.accent,
                "markdown.item.number": self.accent,
                "markdown.block_quote": self.muted,
                "markdown.hr": self.muted,
                "markdown.link": Style(underline=True),
                "markdown.link_url": self.muted,
                "markdown.table.border": self.muted,
                "markdown.table.header": strong,
            }
        )


def palette_of(variables: Mapping[str, str], *, dark: bool, plain: bool) -> Palette:
    """From a theme's variables; `plain` takes attributes in place of colours."""
    if plain:
        none, dim, bold = Style(), Style(dim=True), Style(bold=True)
        return Palette(none, dim, bold, bold, none, Style(reverse=True), dim, "")
    back = Color.parse(variables["background"])

    def ink(name: str, share: float = 1.0) -> Style:
        return Style(color=back.blend(Color.parse(variables[name]), share).rich_color)

    return Palette(
        text=ink("foreground"),
        muted=ink("foreground", 0.6),
        accent=ink("accent"),
        error=ink("error") + Style(bold=True),
        question=ink("primary"),
        cursor=Style(color=back.rich_color, bgcolor=Color.parse(variables["accent"]).rich_color),
        fence=ink("foreground", 0.6),
        code="monokai" if dark else "friendly",
    )
