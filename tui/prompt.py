"""Where the person types: Enter sends, a few keys make a new line, the box grows with the text."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class Prompt(TextArea):
    """Posts Submitted and empties itself; `put_back` undoes that."""

    DEFAULT_CSS = """
    Prompt {
        height: auto;
        min-height: 3;
        max-height: 8;
        border: round $panel;
        padding: 0 1;
        &:focus { border: round $primary; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", show=False),
        Binding("shift+enter,ctrl+j", "newline", "New line", show=False),
        Binding("pageup", "app.scroll_transcript(-1)", "Scroll up", show=False),
        Binding("pagedown", "app.scroll_transcript(1)", "Scroll down", show=False),
    ]

    class Submitted(Message):
        """The person wants `text` to be sent; it is not empty."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(placeholder="Ask anything. Enter sends, Ctrl+J makes a new line", soft_wrap=True)

    def on_key(self, event: events.Key) -> None:
        """Enter and the new line keys, here rather than as bindings: those run ahead of letters still in the queue."""
        action = {"enter": self.action_submit, "shift+enter": self.action_newline, "ctrl+j": self.action_newline}
        if event.key in action:
            event.stop()
            event.prevent_default()
            action[event.key]()

    def action_submit(self) -> None:
        if self.text.strip():
            self.post_message(self.Submitted(self.text))
            self.clear()

    def action_newline(self) -> None:
        self.insert("\n")

    def put_back(self, text: str) -> None:
        """Return what could not be sent, before what has been typed since."""
        self.text = "\n".join(filter(None, (text, self.text)))
        self.move_cursor(self.document.end)
