"""Blocks of Markdown to lines for the terminal, by Rich: a width and a palette enter, lists of segments leave."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from tui.document import Block
from tui.palette import Palette

Line = list[Segment]
_TALLEST_COLOURED = 400
"""Lines of a fence above which its code is shown without colours: they would be worked out with each new token."""


class _LeftHeading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Tokens(Markdown):
    """Markdown that is parsed already."""

    elements = {**Markdown.elements, "heading_open": _LeftHeading}  # noqa: RUF012

    def __init__(self, block: Block, code_theme: str) -> None:
        super().__init__("", code_theme=code_theme or "bw", hyperlinks=False)
        self.parsed = list(block.tokens)


class Painter:
    """Paints for one width (in cells) and palette."""

    def __init__(self, width: int, palette: Palette) -> None:
        self.width = max(8, width)
        self.palette = palette
        self._console = Console(
            file=StringIO(),
            width=self.width,
            force_terminal=True,
            color_system="truecolor",
            legacy_windows=False,
            theme=palette.markdown(),
            emoji=False,
            highlight=False,
        )

    def block(self, block: Block, *, marked: bool = False) -> list[Line]:
        """One block, followed by an empty line. `marked` is a fence that the person has chosen."""
        if block.code is None:
            return [*self._render(_Tokens(block, self.palette.code)), []]
        label = f"─ {block.language or 'code'} "
        style = self.palette.cursor if marked else self.palette.fence
        head = [Segment(label.ljust(self.width, "─")[: self.width], style)]
        return [head, *self._code(block.code, block.language), [Segment("─" * self.width, style)], []]

    def text(self, text: str, style: Style) -> list[Line]:
        """Plain text, wrapped at words."""
        return self._render(Text(text, style=style, overflow="fold"))

    def _code(self, code: str, language: str) -> list[Line]:
        plain = not self.palette.code or not language or code.count("\n") > _TALLEST_COLOURED
        if plain:
            return self._render(Text(code, style=self.palette.text, overflow="fold", no_wrap=False, tab_size=4))
        # Pygments is large, and many conversations show no code.
        from rich.syntax import Syntax

        made = Syntax(code, language, theme=self.palette.code, word_wrap=True, background_color="default", tab_size=4)
        return self._render(made)

    def _render(self, renderable: RenderableType) -> list[Line]:
        options = self._console.options.update(width=self.width)
        return self._console.render_lines(renderable, options, style=self.palette.text, pad=False)
