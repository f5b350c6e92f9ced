"""What modal screens with a list have in common: a frame, a heading, rows, and Esc to go back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Label, OptionList
from textual.widgets.option_list import Option

from tui.fetching import FetchingScreen, ResultT


class ListScreen(FetchingScreen[ResultT | None], ModalScreen[ResultT | None]):
    """A list in a frame. Subclasses give the heading, fill the rows and say what choosing one means."""

    AUTO_FOCUS = "OptionList"
    HEADING = ""
    DEFAULT_CSS = """
    ListScreen { align: center middle; }
    ListScreen > Vertical { width: 95%; max-width: 110; height: 90%; border: round $primary; padding: 0 1; }
    ListScreen OptionList { height: 1fr; border: none; padding: 0; &:focus { border: none; } }
    ListScreen #heading { width: 1fr; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]

    def __init__(self) -> None:
        super().__init__()
        self.heading = Label(self.HEADING, id="heading", markup=False)
        self.rows = OptionList(markup=False)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self.heading
            yield from self.above()
            yield self.rows
            yield Footer(show_command_palette=False)

    def above(self) -> ComposeResult:
        """Widgets between the heading and the list."""
        yield from ()

    def action_back(self) -> None:
        self.dismiss(None)

    def fill(self, rows: Iterable[tuple[str, str]], *, empty: str = "") -> None:
        """Replace the rows by these ids and texts, the same row chosen as before where it is still there."""
        before = self.chosen
        options = [Option(text, id=name) for name, text in rows]
        self.rows.clear_options()
        self.rows.add_options(options)
        ids = [option.id for option in options]
        self.rows.highlighted = (ids.index(before) if before in ids else 0) if options else None
        self.heading.update(self.HEADING if options or not empty else empty)

    @property
    def chosen(self) -> str | None:
        """The id of the highlighted row."""
        at = self.rows.highlighted
        return None if at is None else self.rows.get_option_at_index(at).id
