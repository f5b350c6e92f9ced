"""A list of earlier conversations over the chat; leaves with the id of the chosen one, or None."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from tui.wire import ChatLine


class Chooser(ModalScreen[str | None]):
    AUTO_FOCUS = "OptionList"
    CSS = """
    Chooser { align: center middle; }
    Chooser Vertical { width: 90%; max-width: 90; height: 80%; border: round $primary; padding: 0 1; }
    Chooser OptionList { height: 1fr; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, chats: Sequence[ChatLine]) -> None:
        super().__init__()
        self._chats = chats

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label("Conversations: Enter opens, Esc goes back" if self._chats else "No conversations yet")
            yield OptionList(*(Option(_line(chat), id=chat.id) for chat in self._chats), markup=False)

    def on_mount(self) -> None:
        if self._chats:
            self.query_one(OptionList).highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)


def _line(chat: ChatLine) -> str:
    return f"{datetime.fromtimestamp(chat.updated):%Y-%m-%d %H:%M}  {chat.title}"
