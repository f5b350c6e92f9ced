"""Earlier conversations over the chat: searched, pinned, renamed, deleted; leaves with the id of the chosen one."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from urllib.parse import quote

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList

from localai.client import Client
from tui.listing import ListScreen
from tui.wire import ChatLine, chat_lines_of

LISTED = 200
_ROOT = "/localai/conversations"


class Chooser(ListScreen[str]):
    HEADING = "Conversations: type to search by words and meaning, Enter opens"
    AUTO_FOCUS = "Input"
    DEFAULT_CSS = """
    Chooser Input, Chooser Input:focus { border: none; height: 1; padding: 0; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("ctrl+p", "pin", "Pin", priority=True),
        Binding("ctrl+r", "rename", "Rename", priority=True),
        Binding("ctrl+d", "delete", "Delete", priority=True),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._chats: dict[str, ChatLine] = {}
        self._renaming: str | None = None
        self._doomed: str | None = None
        self._input = Input(placeholder="search", select_on_focus=False)

    def above(self) -> ComposeResult:
        yield self._input

    def on_mount(self) -> None:
        self._search()

    def on_input_changed(self) -> None:
        if self._renaming is None:
            self._search()

    def on_input_submitted(self) -> None:
        if self._renaming is not None:
            self._change(self._renaming, {"title": self._input.value.strip()})
            self._end_rename()
        elif self.chosen is not None:
            self.dismiss(self.chosen)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def action_back(self) -> None:
        if self._renaming is None:
            self.dismiss(None)
        else:
            self._end_rename()

    def action_move(self, step: int) -> None:
        if step < 0:
            self.rows.action_cursor_up()
        else:
            self.rows.action_cursor_down()

    def action_pin(self) -> None:
        if self.chosen is not None:
            self._change(self.chosen, {"pinned": not self._chats[self.chosen].pinned})

    def action_rename(self) -> None:
        if self.chosen is not None:
            self._renaming = self.chosen
            self._input.value = self._chats[self.chosen].title
            self._input.action_end()
            self.heading.update("The new title; Enter keeps it, Esc does not")

    def action_delete(self) -> None:
        """Asked for twice: nothing brings it back."""
        chosen = self.chosen
        if chosen is not None and chosen == self._doomed:
            self.fetch(lambda: self._client.delete(f"{_ROOT}/{quote(chosen)}"), lambda _: self._search())
        elif chosen is not None:
            self._doomed = chosen
            self.heading.update(f"Ctrl+D again deletes {self._chats[chosen].title!r} with all its branches")

    def _end_rename(self) -> None:
        self._renaming = None
        self._input.value = ""
        self._search()

    def _change(self, chat: str, body: dict[str, object]) -> None:
        self.fetch(lambda: self._client.patch(f"{_ROOT}/{quote(chat)}", body), lambda _: self._search())

    def _search(self) -> None:
        words = self._input.value if self._renaming is None else ""
        path = f"{_ROOT}?limit={LISTED}&search={quote(words)}"

        def found(chats: tuple[ChatLine, ...]) -> None:
            if words == self._input.value or self._renaming is not None:
                self._doomed = None
                self._chats = {chat.id: chat for chat in chats}
                self.fill(((chat.id, _line(chat)) for chat in chats), empty="No conversations" + " found" * bool(words))

        self.fetch(lambda: chat_lines_of(self._client.get(path)), found)


def _line(chat: ChatLine) -> str:
    mark = "* " if chat.pinned else "  "
    found = f"  {chat.found}" if chat.found and chat.found != chat.title else ""
    return f"{mark}{datetime.fromtimestamp(chat.updated):%Y-%m-%d %H:%M}  {chat.title}{found}"
