"""Blocks of Markdown to lines for the terminal, by Rich: a width and a palette enter, lists of segments leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Heading, Markdown, TableElement
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tui.document import Block
from tui.formulas import readable
from tui.palette import Palette

Line = list[Segment]
_BREAK = Token("hardbreak", "br", 0)
_ENDLESS = 10_000
_TALLEST_COLOURED = 400
"""Lines of a fence above which its code is shown without colours: they would be worked out with each new token."""


class _LeftHeading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _FittingTable(TableElement):
    """A table; where its longest words do not fit beside each other, one entry for each row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        endless = options.update(width=_ENDLESS, max_width=_ENDLESS)
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            fits = Measurement.get(console, endless, table).minimum <= options.max_width
            yield from [table] if fits else self._entries()

    def _entries(self) -> Iterator[Text]:
        header, body = self.header, self.body
        names = [cell.content for cell in header.row.cells] if header is not None and header.row is not None else []
        for row in body.rows if body is not None else ():
            yield Text("")
            for name, cell in zip(names, row.cells, strict=False):
                yield Text.assemble((name.plain, "markdown.table.header"), ": ", cell.content, overflow="fold")


class _Tokens(Markdown):
    """Markdown that is parsed already."""

    elements = {**Markdown.elements, "heading_open": _LeftHeading, "table_open": _FittingTable}  # noqa: RUF012

    def __init__(self, block: Block, code_theme: str) -> None:
        super().__init__("", code_theme=code_theme or "bw", hyperlinks=False)
        self.parsed = [*_spelled(block.tokens)]


def _spelled(tokens: Sequence[Token]) -> Iterator[Token]:
    """With what formulas mean in place of formulas."""
    for token in tokens:
        if token.type == "math_block":
            lines = Token("inline", "", 0, children=_in_lines(readable(token.content)))
            yield from (Token("paragraph_open", "p", 1), lines, Token("paragraph_close", "p", -1))
        elif token.type == "math_inline":
            yield Token("text", "", 0, content=" ".join(readable(token.content)))
        elif token.type == "math_inline_double":
            yield from (_BREAK, *_in_lines(readable(token.content)), _BREAK)
        elif any(child.type.startswith("math") for child in token.children or ()):
            yield token.copy(children=[*_spelled(token.children or ())])
        else:
            yield token


def _in_lines(lines: Sequence[str]) -> list[Token]:
    found = []
    for line in lines:
        found += [_BREAK, Token("text", "", 0, content=f"    {line}")]
    return found[1:]


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
